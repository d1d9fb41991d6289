"""The parent run of a sweep tells the truth about its members."""

from itertools import permutations

import pytest

from hierlm.run_dir import RunDir
from hierlm.tracking.backend import Status
from hierlm.tracking.replay import Replay
from hierlm.tracking.sweep import sweep_status
from tests.tracking.conftest import MemoryBackend, make_replay, write_steps


@pytest.mark.parametrize(
    ("members", "size", "expected"),
    [
        (["FINISHED", "FINISHED"], 2, "FINISHED"),
        (["FINISHED"], 2, "RUNNING"),
        (["FINISHED", "RUNNING"], 2, "RUNNING"),
        (["FINISHED", "SCHEDULED"], 2, "RUNNING"),
        (["FINISHED", "KILLED"], 2, "KILLED"),
        (["KILLED", "FAILED", "FINISHED"], 3, "FAILED"),
        (["FINISHED", "FINISHED", "FINISHED"], 2, "FINISHED"),
        (["FINISHED"], None, "FINISHED"),
        (["FINISHED", "RUNNING"], None, "RUNNING"),
        ([], None, "RUNNING"),
    ],
)
def test_a_sweep_runs_until_all_have_ended_and_ends_as_the_worst_of_them(
    members: list[Status], size: int | None, expected: Status
) -> None:
    assert {sweep_status(order, size=size) for order in permutations(members)} == {expected}


def member(run_dir: RunDir, backend: MemoryBackend, name: str, **more: object) -> Replay:
    """The replay of a run of a sweep of two, with ten steps."""
    own = RunDir(run_dir.path.with_name(name))
    if not own.path.exists():
        own.path.mkdir()
        write_steps(own, 1, 10)
    return make_replay(own, backend, sweep="widths", sweep_size=2, **more)  # type: ignore[arg-type]


def end(replay: Replay, status: Status) -> None:
    replay.want_status(status)
    replay.push()
    replay.close()


def test_the_last_member_to_end_closes_the_parent(run_dir: RunDir, backend: MemoryBackend) -> None:
    first, second = member(run_dir, backend, "a"), member(run_dir, backend, "b")
    first.push()
    end(first, "FINISHED")
    assert backend.only(part="sweep").status == "RUNNING", "the other has not begun"
    second.push()
    assert backend.only(part="sweep").status == "RUNNING"
    end(second, "FINISHED")
    assert backend.only(part="sweep").status == "FINISHED"


def test_a_member_that_goes_on_opens_the_parent_again(run_dir: RunDir, backend: MemoryBackend) -> None:
    for name, status in (("a", "FINISHED"), ("b", "FAILED")):
        end(member(run_dir, backend, name), status)  # type: ignore[arg-type]
    assert backend.only(part="sweep").status == "FAILED"
    again = member(run_dir, backend, "b", attempt=2)
    again.push()
    assert backend.only(part="sweep").status == "RUNNING"
    end(again, "FINISHED")
    assert backend.only(part="sweep").status == "FINISHED"


def test_a_run_of_no_sweep_makes_no_parent(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 10)
    end(make_replay(run_dir, backend), "FINISHED")
    assert {run.tags["hierlm.part"] for run in backend.runs.values()} == {"run", "phase"}


def test_a_tracker_that_fails_at_the_end_closes_the_parent_later(run_dir: RunDir, backend: MemoryBackend) -> None:
    end(member(run_dir, backend, "a"), "FINISHED")
    last = member(run_dir, backend, "b")
    last.push()
    last.want_status("FINISHED")
    backend.fail_after_calls = 2
    with pytest.raises(ConnectionError):
        last.push()
    backend.fail_after_calls = None
    last.push()
    assert backend.only(part="sweep").status == "FINISHED"
