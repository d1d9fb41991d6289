"""The background thread: training never waits for it, never hears an error, and is told once what happens."""

import threading
import time

import pytest

from hierlm.run_dir import RunDir
from hierlm.tracking.follower import FollowingTracker
from tests.tracking.conftest import MemoryBackend, make_replay, write_steps
from tests.tracking.servers import until


def _follow(run_dir: RunDir, backend: MemoryBackend, said: list[str]) -> FollowingTracker:
    replay = make_replay(run_dir, backend)
    return FollowingTracker(replay, report=said.append, interval_seconds=0.02, longest_pause_seconds=0.05)


def test_everything_written_arrives_and_the_thread_ends(run_dir: RunDir, backend: MemoryBackend) -> None:
    said: list[str] = []
    tracker = _follow(run_dir, backend, said)
    write_steps(run_dir, 1, 30)
    until(lambda: backend.runs != {} and len(backend.only(part="run").steps("train/loss")) == 30)
    write_steps(run_dir, 31, 60)
    tracker.finish("FINISHED")
    run = backend.only(part="run")
    assert run.steps("train/loss") == list(range(1, 61))
    assert run.status == "FINISHED"
    assert said == []
    assert "tracker" not in [thread.name for thread in threading.enumerate()]


def test_a_tracker_that_goes_and_comes_back_is_reported_once_each_and_misses_nothing(
    run_dir: RunDir, backend: MemoryBackend
) -> None:
    said: list[str] = []
    tracker = _follow(run_dir, backend, said)
    write_steps(run_dir, 1, 20)
    until(lambda: backend.runs != {} and len(backend.only(part="run").steps("train/loss")) == 20)
    backend.is_down = True
    write_steps(run_dir, 21, 40)
    until(lambda: len(said) == 1)
    time.sleep(0.2)
    backend.is_down = False
    until(lambda: len(said) == 2)
    tracker.finish("FINISHED")
    assert "away (tracker is down)" in said[0]
    assert "back after" in said[1]
    assert len(said) == 2
    assert backend.only(part="run").steps("train/loss") == list(range(1, 41))


def test_the_page_of_the_run_is_told_once(run_dir: RunDir, backend: MemoryBackend) -> None:
    backend.has_pages = True
    said: list[str] = []
    tracker = _follow(run_dir, backend, said)
    write_steps(run_dir, 1, 5)
    until(lambda: said != [])
    tracker.finish("FINISHED")
    assert said == ["tracker: memory://run1"]


def test_a_run_left_for_the_next_attempt_is_scheduled(run_dir: RunDir, backend: MemoryBackend) -> None:
    write_steps(run_dir, 1, 5)
    _follow(run_dir, backend, []).finish(None)
    assert backend.only(part="run").status == "SCHEDULED"


def test_ending_while_the_tracker_is_down_is_quick_and_says_how_to_go_on(
    run_dir: RunDir, backend: MemoryBackend
) -> None:
    said: list[str] = []
    backend.is_down = True
    write_steps(run_dir, 1, 5)
    tracker = _follow(run_dir, backend, said)
    started = time.monotonic()
    tracker.finish("FAILED")
    assert time.monotonic() - started < 40  # not the 120 of a run that has finished
    assert "hierlm track sync" in said[-1]
    backend.is_down = False
    make_replay(run_dir, backend, attempt=None).push()
    assert backend.only(part="run").status == "FAILED"


@pytest.mark.slow
def test_a_tracker_that_hangs_holds_up_neither_steps_nor_the_end(
    run_dir: RunDir, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(backend, "find_or_create_run", lambda **_: hang.wait())
    tracker = _follow(run_dir, backend, [])
    started = time.monotonic()
    for step in range(1000):
        tracker.metrics({"loss": 1.0}, step=step)
    assert time.monotonic() - started < 8  # none of the 1000 steps has waited
    tracker.finish("KILLED")
    assert time.monotonic() - started < 40
    hang.set()


def test_a_run_directory_that_cannot_be_written_raises_nothing(
    run_dir: RunDir, backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    tracker = _follow(run_dir, backend, said)
    monkeypatch.setattr("hierlm.tracking.state._replace", _no_space)
    tracker.finish("FINISHED")
    assert any("No space left" in line for line in said)


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")
