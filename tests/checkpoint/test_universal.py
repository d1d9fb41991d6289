"""A checkpoint of any layout goes on in any other: the same state to the last bit, the same losses to rounding."""

import argparse
import contextlib
import errno
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.checkpoint.commit import save_checkpoint
from hierlm.checkpoint.converting import is_converting, turn_to_convert
from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.find import CheckpointRef, checkpoint_at, list_checkpoints
from hierlm.checkpoint.layout import CONVERTING, UNIVERSAL, attempt_dir, entries, step_dir
from hierlm.checkpoint.leftovers import clear_leftovers
from hierlm.checkpoint.team import ALONE, TeamError
from hierlm.checkpoint.universal import universal_of, write_universal
from hierlm.durable import FileWriter
from hierlm.lease import UNFENCED
from tests.checkpoint.layouts import load_and_go_on, overrides, train_and_save
from tests.checkpoint.making import contents, facts, on_every_rank
from tests.distributed.spawn import run_ranks

Layout = dict[str, Any]
SOURCES: dict[str, tuple[str, Layout]] = {
    "dp2 zero 1": ("transformer", {"dp": 2, "zero": 1}),
    "dp2 zero 3": ("transformer", {"dp": 2, "zero": 3}),
    "dp2 zero 1 bf16": ("transformer", {"dp": 2, "zero": 1, "precision": "bf16"}),
    "tp2 zero 1": ("transformer", {"tp": 2, "zero": 1}),
    "tp2 pp2 zero 1": ("hourglass", {"tp": 2, "pp": 2, "zero": 1}),
}
CHANGES: list[tuple[str, Layout]] = [  # those that `test_every_layout` leaves out
    ("dp2 zero 1", {"dp": 4, "zero": 1}),
    ("dp2 zero 1", {"dp": 4, "zero": 3}),
    ("dp2 zero 1 bf16", {"dp": 1, "zero": 1, "precision": "bf16"}),
    ("dp2 zero 1 bf16", {"dp": 4, "zero": 3, "precision": "bf16"}),
    ("dp2 zero 3", {"dp": 2, "zero": 1}),
]


def world_size(layout: Layout) -> int:
    return int(layout.get("dp", 1) * layout.get("tp", 1) * layout.get("pp", 1))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By name: (folder with `engine` and its conversion, losses of the steps after the save); made when asked for."""
    made: dict[str, tuple[Path, list[float]]] = {}

    def get(name: str) -> tuple[Path, list[float]]:
        if name not in made:
            arch, layout = SOURCES[name]
            folder = tmp_path_factory.mktemp("source")
            ranks = run_ranks(train_and_save, world_size(layout), arch, overrides(**layout), str(folder))
            write_universal(folder / "engine", folder / "universal", progress=lambda done, of: None)
            made[name] = folder, ranks[0]["losses"]
        return made[name]

    return get


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(("name", "target"), CHANGES, ids=lambda value: str(value).replace("'", ""))
def test_a_change_of_layout_changes_nothing_else(name: str, target: Layout, source: Any, tmp_path: Path) -> None:
    folder, losses = source(name)
    universal = str(folder / "universal" / "engine")
    arch, _ = SOURCES[name]
    ranks = run_ranks(load_and_go_on, world_size(target), arch, overrides(**target), universal, str(tmp_path))
    assert digest(tmp_path / "engine") == digest(folder / "engine")
    rtol = 1e-5 if "precision" not in target else 1e-3
    torch.testing.assert_close(torch.tensor(ranks[0]), torch.tensor(losses), rtol=rtol, atol=0)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dp2 zero 1", "tp2 zero 1", "tp2 pp2 zero 1", "dp2 zero 3"])
def test_it_is_what_the_engines_own_converter_writes(name: str, source: Any, tmp_path: Path) -> None:
    """The converter takes the patterns of the tensor plan and refuses one that matches nothing."""
    from deepspeed.checkpoint import ds_to_universal

    folder, _ = source(name)
    arguments = argparse.Namespace(
        input_folder=str(folder / "engine"),
        output_folder=str(tmp_path / "theirs"),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=False,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
    theirs, ours = tmp_path / "theirs" / "zero", folder / "universal" / "engine" / "zero"
    kinds = ("fp32.pt", "exp_avg.pt", "exp_avg_sq.pt")
    names = {path.relative_to(ours) for path in ours.rglob("*.pt") if path.name in kinds}
    assert names == {path.relative_to(theirs) for path in theirs.rglob("*.pt") if path.name in kinds}
    for file in names:
        mine, other = (torch.load(root / file, weights_only=False) for root in (ours, theirs))
        other = other["param"] if isinstance(other, dict) else other  # flat at ZeRO 3
        assert torch.equal(mine["param"].reshape(-1), other.reshape(-1)), file


@pytest.fixture
def committed(source: Any, tmp_path: Path) -> CheckpointRef:
    """A real checkpoint under `checkpoints/`, committed."""
    folder, _ = source("dp2 zero 1")

    def write(partial: Path) -> dict[str, Any]:
        files = FileWriter(partial)
        for file in (folder / "engine").iterdir():
            with files.open(partial / "engine" / file.name) as copy:
                copy.write(file.read_bytes())
        return files.records

    save_checkpoint(tmp_path, facts=facts(3), write=write, team=ALONE, keep=1)
    return checkpoint_at(tmp_path, 3)


@pytest.mark.distributed
def test_it_is_made_once_and_found_again(committed: CheckpointRef) -> None:
    progress: list[tuple[int, int]] = []
    first = universal_of(committed, progress=lambda done, of: progress.append((done, of)))
    assert first == step_dir(committed.path.parent, 3, suffix=UNIVERSAL)
    assert progress[-1][0] == progress[-1][1] == len(progress) > 10
    before = contents(first)
    assert universal_of(committed, progress=pytest.fail) == first
    assert contents(first) == before
    assert [listed.step for listed in list_checkpoints(committed.path.parent)] == [3]


@pytest.mark.distributed
@pytest.mark.parametrize("size", [2, 3])
def test_a_team_writes_what_one_would(size: int, committed: CheckpointRef) -> None:
    alone = universal_of(committed, progress=lambda done, of: None)
    expected = contents(alone)
    (alone / "universal.json").unlink()  # not whole any more: made anew
    found = on_every_rank(size, lambda team: universal_of(committed, progress=lambda done, of: None, team=team))
    assert found == [alone] * size
    assert contents(alone) == expected


def convert(checkpoints: str) -> tuple[str, int]:
    """In a process of its own: the folder, and how many parameters had to be converted here."""
    done = []
    ref = checkpoint_at(Path(checkpoints), 3)
    return str(universal_of(ref, progress=lambda number, of: done.append(number))), len(done)


@pytest.mark.distributed
def test_of_several_processes_at_once_one_converts_and_all_find_it(committed: CheckpointRef) -> None:
    ranks = run_ranks(convert, 3, str(committed.path.parent))
    assert {folder for folder, _ in ranks} == {str(step_dir(committed.path.parent, 3, suffix=UNIVERSAL))}
    assert sorted(count > 0 for _, count in ranks) == [False, False, True]
    assert entries(committed.path.parent, suffix=CONVERTING) == []


@pytest.mark.distributed
def test_without_locks_two_may_convert_and_one_result_stays(
    committed: CheckpointRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("hierlm.checkpoint.converting.fcntl.flock", no_locks)
    barrier = threading.Barrier(2, timeout=300)

    def one(_: int) -> Path:
        is_first = [True]

        def progress(done: int, of: int) -> None:
            if is_first:
                is_first.clear()
                barrier.wait()

        return universal_of(committed, progress=progress)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(one, range(2))
    assert first == second and universal_of(committed, progress=pytest.fail) == first
    assert entries(committed.path.parent, suffix=CONVERTING) == []


@pytest.mark.distributed
def test_a_save_removes_what_a_converter_has_left_but_not_what_it_is_making(committed: CheckpointRef) -> None:
    checkpoints = committed.path.parent
    folder = attempt_dir(checkpoints, 3, suffix=CONVERTING, generation=7)
    folder.mkdir()
    with turn_to_convert(checkpoints, report=pytest.fail):
        assert is_converting(checkpoints)
        clear_leftovers(checkpoints, lease=UNFENCED)
        assert folder.exists()
    clear_leftovers(checkpoints, lease=UNFENCED)
    assert not folder.exists() and not is_converting(checkpoints)


@pytest.mark.distributed
@pytest.mark.parametrize("harm", ["damaged", "of another checkpoint", "unfinished"])
def test_one_that_is_not_this_checkpoints_is_made_anew(harm: str, committed: CheckpointRef) -> None:
    done = universal_of(committed, progress=lambda done, of: None)
    expected = contents(done)
    if harm == "damaged":
        victim = next(iter(sorted(done.rglob("fp32.pt"))))
        victim.write_bytes(victim.read_bytes()[:-1])
    elif harm == "of another checkpoint":
        record = done / "universal.json"
        record.write_text(record.read_text().replace('"source": {', '"source": {"engine/other": "0",'))
    else:
        done.rename(attempt_dir(committed.path.parent, 3, suffix=CONVERTING, generation=7))
    assert contents(universal_of(committed, progress=lambda done, of: None)) == expected


@pytest.mark.distributed
def test_a_conversion_that_fails_leaves_nothing_to_load(
    committed: CheckpointRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hierlm.checkpoint.universal.torch.save", fail)
    with pytest.raises(TeamError, match="No space left"):
        universal_of(committed, progress=lambda done, of: None)
    assert not step_dir(committed.path.parent, 3, suffix=UNIVERSAL).exists()
