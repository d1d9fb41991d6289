"""An attempt that wakes after a newer one has begun changes nothing, wherever it was paused: every pause is tried."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hierlm.checkpoint.commit import _rename
from hierlm.checkpoint.find import list_checkpoints, newest_good, verify
from hierlm.checkpoint.layout import LATEST, PARTIAL, REMOVED, REPLACED, attempt_dir, step_dir
from hierlm.checkpoint.leftovers import clear_leftovers, take_over
from hierlm.checkpoint.retention import remove_older
from hierlm.lease import Lease, TakenOverError, take
from hierlm.tracking.jsonl import MetricsFile, read_records
from tests.checkpoint.making import contents, on_every_rank, save


def begun(run: Path) -> Lease:
    """A new attempt, up to the point where it looks for its checkpoint."""
    lease = take(run / "leases", sweep=(run, run / "checkpoints"))
    take_over(run / "checkpoints", lease=lease)
    return lease


def quiet(line: str) -> None:
    """A report nobody reads."""


def paused_at(event: int, action: Callable[[], object]) -> int | None:
    """A child that pauses itself before its nth touch of the file system; None if it came to its end before that."""
    child = os.fork()
    if child == 0:
        left = event

        def pause_in_time(name: str, _: tuple[Any, ...]) -> None:
            nonlocal left
            if name in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"):
                left -= 1
                if left == -1:
                    os.kill(os.getpid(), signal.SIGSTOP)

        sys.addaudithook(pause_in_time)
        try:
            action()
        except TakenOverError:
            pass
        finally:
            os._exit(0)
    _, status = os.waitpid(child, os.WUNTRACED)
    return child if os.WIFSTOPPED(status) else None


def wake(child: int) -> None:
    os.kill(child, signal.SIGCONT)
    os.waitpid(child, 0)


def committed(checkpoints: Path) -> dict[str, bytes]:
    """What counts: every checkpoint with all its bytes, and the pointer."""
    found = contents(checkpoints)
    whole = {name: content for name, content in found.items() if "." not in name.split("/")[0]}
    assert all(not verify(listed) for listed in list_checkpoints(checkpoints))
    return whole


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("again", [False, True], ids=["another step", "a damaged step again"])
def test_a_save_that_wakes_changes_nothing(again: bool, stride: int, tmp_path: Path) -> None:
    """The newcomer goes on from what it found, saves, and the older one wakes in the middle of its own save."""
    seen = set()
    for event in range(0, 1000, stride):
        run = tmp_path / f"{event:03}"
        checkpoints = run / "checkpoints"
        older = begun(run)
        for step in (10, 20):
            save(checkpoints, step, keep=1, lease=older)
        if again:
            save(checkpoints, 30, keep=2, lease=older)
            (step_dir(checkpoints, 30) / "engine" / "hashed-0").write_text("rotten")

        def older_saves(checkpoints: Path = checkpoints, lease: Lease = older) -> None:
            save(checkpoints, 30, keep=1, lease=lease)

        child = paused_at(event, older_saves)
        newer = begun(run)
        found = newest_good(checkpoints, report=quiet)
        assert found is not None and not verify(list_checkpoints(checkpoints)[0])
        seen.add(found.step)
        save(checkpoints, found.step + 10, keep=2, lease=newer)
        before = committed(checkpoints)
        if child is None:
            assert found.step == 30, "a save that nobody has disturbed counts"
            break
        wake(child)
        assert committed(checkpoints) == before, f"paused before touch {event}"
        assert (checkpoints / LATEST).read_text() == f"step-{found.step + 10:08d}\n"
    assert seen == {20, 30} and event > 30


def test_a_removal_that_wakes_takes_nothing_a_newcomer_counts_on(tmp_path: Path) -> None:
    """The newest checkpoint is damaged: the newcomer falls back on the one the older attempt was about to remove."""
    restored = False
    for event in range(1000):
        run = tmp_path / f"{event:03}"
        checkpoints = run / "checkpoints"
        older = begun(run)
        for step in (10, 20):
            save(checkpoints, step, keep=2, lease=older)

        def older_removes(checkpoints: Path = checkpoints, lease: Lease = older) -> None:
            remove_older(checkpoints, newest=20, keep=1, lease=lease)

        child = paused_at(event, older_removes)
        restored |= bool(list(checkpoints.glob(f"*{REMOVED}/manifest.json")))
        begun(run)
        counted_on = [listed for listed in list_checkpoints(checkpoints) if not verify(listed)]
        if child is None:
            break
        wake(child)
        for listed in counted_on:
            assert not verify(listed), f"paused before touch {event}: step {listed.step} is gone"
    assert [listed.step for listed in counted_on] == [20] and restored


def test_all_ranks_of_an_attempt_that_was_taken_over_learn_it_from_the_save(tmp_path: Path) -> None:
    run = tmp_path / "run"
    older = begun(run)
    save(run / "checkpoints", 10, lease=older)
    begun(run)
    before = contents(run / "checkpoints")
    errors = on_every_rank(3, lambda team: save(run / "checkpoints", 20, team=team, lease=older))
    assert {type(error) for error in errors} == {TakenOverError}
    assert len({str(error) for error in errors}) == 1
    assert contents(run / "checkpoints") == before


def test_the_saves_of_two_attempts_never_share_a_directory(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    older, newer = begun(tmp_path), begun(tmp_path)
    mine = attempt_dir(checkpoints, 30, suffix=PARTIAL, generation=newer.generation)
    mine.mkdir(parents=True)
    clear_leftovers(checkpoints, lease=older)
    assert mine.exists()


def test_a_displaced_checkpoint_comes_back_when_the_commit_fails(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    save(checkpoints, 10)
    before = contents(checkpoints)
    partial = tmp_path / "gone.partial"
    with pytest.raises(FileNotFoundError):
        _rename(partial, step_dir(checkpoints, 10), lease=begun(tmp_path))
    assert contents(checkpoints) == before
    assert not step_dir(checkpoints, 10, suffix=REPLACED).exists()


def test_a_record_that_wakes_is_not_in_the_file(tmp_path: Path) -> None:
    """Paused anywhere in the append, also between the check and the write."""
    for event in range(100):
        run = tmp_path / f"{event:03}"
        older = begun(run)
        file = MetricsFile(run / "metrics.jsonl", lease=older)
        file.write({"step": 1})

        def older_writes(file: MetricsFile = file) -> None:
            file.write({"step": 2, "from": "older"})

        child = paused_at(event, older_writes)
        mine = MetricsFile(run / "metrics.jsonl", lease=begun(run))
        mine.truncate_after(step=1)
        mine.write({"step": 2, "from": "newer"})
        if child is None:
            break
        wake(child)
        assert [record.get("from") for record in read_records(mine.path)] == [None, "newer"]
    assert event > 1


def test_an_append_between_check_and_write_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check has been passed when the newcomer comes."""
    older = MetricsFile(tmp_path / "metrics.jsonl", lease=begun(tmp_path))
    older.write({"step": 1})
    newer: list[MetricsFile] = []
    really_write = os.write

    def write(descriptor: int, line: bytes) -> int:
        monkeypatch.undo()
        newer.append(MetricsFile(tmp_path / "metrics.jsonl", lease=begun(tmp_path)))
        return really_write(descriptor, line)

    monkeypatch.setattr(os, "write", write)
    older.write({"step": 2, "from": "older"})
    newer[0].write({"step": 2, "from": "newer"})
    assert [record.get("from") for record in read_records(older.path)] == [None, "newer"]
    with pytest.raises(TakenOverError):
        older.write({"step": 3})
