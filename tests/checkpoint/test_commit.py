"""A save is there whole or not at all, on every rank, wherever it is cut off."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hierlm.checkpoint.commit import Saved, SaveError, save_checkpoint
from hierlm.checkpoint.find import list_checkpoints, newest_good
from hierlm.checkpoint.layout import LATEST, PARTIAL, UNIVERSAL, step_dir
from hierlm.checkpoint.manifest import read_manifest
from hierlm.checkpoint.team import Team
from tests.checkpoint.making import contents, facts, on_every_rank, save, write_two_files


def quiet(line: str) -> None:
    """A report nobody reads."""


def steps(checkpoints: Path) -> list[int]:
    return [listed.step for listed in list_checkpoints(checkpoints)]


def test_every_file_of_every_rank_is_in_the_manifest(tmp_path: Path) -> None:
    saved = on_every_rank(3, lambda team: save(tmp_path, 5, team=team))
    assert all(isinstance(result, Saved) for result in saved), saved
    manifest = read_manifest(step_dir(tmp_path, 5))
    expected = {f"engine/hashed-{rank}" for rank in range(3)} | {f"memory/left-{rank}" for rank in range(3)}
    assert manifest.files.keys() == expected
    assert saved[0].size_bytes == manifest.size_bytes == saved[2].size_bytes
    assert newest_good(tmp_path, report=pytest.fail).step == 5  # type: ignore[union-attr]
    assert (tmp_path / LATEST).read_text() == "step-00000005\n"


def test_one_failing_rank_fails_all_and_costs_nothing(tmp_path: Path) -> None:
    save(tmp_path, 5)
    before = contents(tmp_path)

    def save_with_full_disk(team: Team) -> Saved:
        def write(partial: Path) -> Any:
            records = write_two_files(6, team=team)(partial)
            if team.rank == 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
            return records

        return save_checkpoint(tmp_path, facts=facts(6), write=write, team=team, keep=1)

    errors = on_every_rank(3, save_with_full_disk)
    assert {type(error) for error in errors} == {SaveError}
    assert len({str(error) for error in errors}) == 1
    assert "rank 1" in str(errors[0]) and "No space left" in str(errors[0]) and "\n" not in str(errors[0])
    assert contents(tmp_path) == before


@pytest.mark.parametrize("function", ["write_manifest", "sync_tree", "make_manifest"])
def test_a_failure_of_the_first_rank_alone_fails_all(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 5)
    before = contents(tmp_path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"hierlm.checkpoint.commit.{function}", fail)
    errors = on_every_rank(2, lambda team: save(tmp_path, 6, team=team))
    assert [type(error) for error in errors] == [SaveError, SaveError], errors
    assert contents(tmp_path) == before


def test_a_disk_too_full_for_the_pointer_does_not_deny_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("hierlm.lease.write_through", fail)
    assert save(tmp_path, 5).path == step_dir(tmp_path, 5)
    assert newest_good(tmp_path, report=pytest.fail).step == 5  # type: ignore[union-attr]


def test_what_a_killed_save_left_is_cleared(tmp_path: Path) -> None:
    for step in (3, 5):
        (step_dir(tmp_path, step, suffix=PARTIAL) / "engine").mkdir(parents=True)
        (step_dir(tmp_path, step, suffix=PARTIAL) / "engine" / "stale").write_text("stale")
    save(tmp_path, 5)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["latest", "step-00000005"]
    assert "engine/stale" not in read_manifest(step_dir(tmp_path, 5)).files


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save(tmp_path, step, keep=2)
        step_dir(tmp_path, step, suffix=UNIVERSAL).mkdir()
    assert steps(tmp_path) == [30, 40]
    assert not step_dir(tmp_path, 10, suffix=UNIVERSAL).exists()


def test_an_old_checkpoint_outlives_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With keep = 1 there would be nothing left if the old one went first."""
    save(tmp_path, 10, keep=1)
    seen: list[list[int]] = []
    publish = sys.modules["hierlm.checkpoint.commit"].write_manifest

    def look(*arguments: Any) -> None:
        seen.append(steps(tmp_path))
        publish(*arguments)

    monkeypatch.setattr("hierlm.checkpoint.commit.write_manifest", look)
    save(tmp_path, 20, keep=1)
    assert seen == [[10]] and steps(tmp_path) == [20]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    """After a fall-back from a damaged checkpoint the run comes by its step once more."""
    save(tmp_path, 10)
    save(tmp_path, 20)
    (step_dir(tmp_path, 20) / "engine" / "hashed-0").write_text("rotten")
    save(tmp_path, 20)
    assert newest_good(tmp_path, report=pytest.fail).step == 20  # type: ignore[union-attr]
    assert steps(tmp_path) == [10, 20]


def test_a_future_fallen_back_from_neither_counts_nor_goes(tmp_path: Path) -> None:
    for step in (10, 20):
        save(tmp_path, step, keep=2)
    (step_dir(tmp_path, 20) / "engine" / "hashed-0").write_text("rotten")
    save(tmp_path, 15, keep=2)
    assert steps(tmp_path) == [10, 15, 20]


def killed_at(event: int, action: Callable[[], object], below: Path) -> bool:
    """Run the action in a child that dies just before its nth touch of the file system; whether it came to an end."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    left = event

    def die_in_time(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        touches = name in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
        if touches and arguments and (not isinstance(arguments[0], str | Path) or str(below) in str(arguments[0])):
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(die_in_time)
    try:
        action()
    finally:
        os._exit(0)


@pytest.mark.parametrize(
    "again", [pytest.param(False, id="next step"), pytest.param(True, id="same step", marks=pytest.mark.slow)]
)
def test_killed_anywhere_there_is_a_good_checkpoint_and_the_next_save_works(again: bool, tmp_path: Path) -> None:
    last = 20 if again else 30

    def attempt(checkpoints: Path, event: int) -> tuple[bool, int]:
        """(the save came to its end, the step a resume finds), with the save killed at an event."""
        for step in (10, 20):
            save(checkpoints, step, keep=1)
        ended = killed_at(event, lambda: save(checkpoints, last, keep=1), checkpoints)
        found = newest_good(checkpoints, report=quiet)
        assert found is not None
        save(checkpoints, 40, keep=1)
        assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-00000040"]
        return ended, found.step

    outcomes: list[tuple[bool, int]] = []
    while not outcomes or not outcomes[-1][0]:
        outcomes.append(attempt(tmp_path / f"{len(outcomes):03}", len(outcomes)))
    assert len(outcomes) > 15
    assert [step for _, step in outcomes] == sorted(step for _, step in outcomes)  # the old one, then the new one
    assert {step for _, step in outcomes} == {20, last}
