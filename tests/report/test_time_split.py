"""Where time went, over attempts."""

import json

import pytest

from hierlm.report.run_record import load_run
from hierlm.report.time_split import time_split
from hierlm.run_dir import RunDir
from tests.report.conftest import START, STEP_SECONDS, MakeRun, attempt_line


def _rewrite_times(run_dir: RunDir, shift_after_step: dict[int, float]) -> None:
    """Everything after a step happened later."""
    records = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    for record in records:
        record["time"] += sum(shift for step, shift in shift_after_step.items() if record["step"] > step)
    run_dir.metrics.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_one_attempt_is_compute_waiting_evaluation_and_start_up(make_run: MakeRun) -> None:
    split = time_split(load_run(make_run("a").path))
    assert split is not None
    steps = 100 * STEP_SECONDS
    assert split.seconds["compute"] == pytest.approx(0.9 * steps)
    assert split.seconds["data_wait"] == pytest.approx(0.1 * steps)
    assert split.seconds["evaluation"] == pytest.approx(4.0)
    assert split.seconds["start_up"] == pytest.approx(10.0)
    assert split.seconds["lost"] == split.seconds["between"] == 0.0
    assert sum(split.seconds.values()) == pytest.approx(split.total_seconds)
    assert split.goodput == pytest.approx(0.9 * steps / split.total_seconds)


def test_a_queue_between_attempts_and_a_kill_are_told_apart(make_run: MakeRun) -> None:
    """Stopped after step 30 and started 60 s later; killed after step 70, gone for 100 s."""
    run_dir = make_run("a")
    _rewrite_times(run_dir, {30: 65.0, 70: 108.0})
    at = {record["step"]: record["time"] for record in load_run(run_dir.path).train}
    lines = [
        attempt_line("start", START - 10),
        attempt_line("end", at[30], why="stopped (SIGTERM)"),
        attempt_line("start", at[30] + 60),
        attempt_line("start", at[70] + 100),
        attempt_line("end", at[100] + 1.0, why="finished"),  # after the last evaluation
    ]
    run_dir.attempts.write_text("".join(lines))
    split = time_split(load_run(run_dir.path))
    assert split is not None
    assert split.seconds["between"] == pytest.approx(60)
    assert split.seconds["lost"] == pytest.approx(100)
    assert split.seconds["start_up"] == pytest.approx(10 + 5 + 8)
    assert sum(split.seconds.values()) == pytest.approx(split.total_seconds)


def test_without_attempts_nothing_is_claimed(make_run: MakeRun) -> None:
    run_dir = make_run("a")
    run_dir.attempts.unlink()
    assert time_split(load_run(run_dir.path)) is None
