"""attempts.jsonl: numbered by lease, survives a torn line, and hears nothing from an attempt that was taken over."""

from pathlib import Path

import pytest

from hierlm.lease import TakenOverError, take
from hierlm.run_dir import RunDir
from hierlm.train.record.attempts import read_attempts, record_end, record_start


def test_attempts_are_counted_from_one(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    first = take(run_dir.leases)
    record_start(run_dir, lease=first, layout={"data": 1}, first_step=0)
    record_end(run_dir, lease=first, last_step=5, why="stopped (SIGTERM)")
    record_start(run_dir, lease=take(run_dir.leases), layout={"data": 2}, first_step=5)
    assert [(r["event"], r["attempt"]) for r in read_attempts(run_dir)] == [("start", 1), ("end", 1), ("start", 2)]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    record_start(run_dir, lease=take(run_dir.leases), layout={}, first_step=0)
    with run_dir.attempts.open("a") as file:
        file.write('{"event": "end", "att')
    record_start(run_dir, lease=take(run_dir.leases), layout={}, first_step=3)
    assert [r["event"] for r in read_attempts(run_dir)] == ["start", "start"]


def test_an_attempt_that_was_taken_over_records_nothing(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    older = take(run_dir.leases)
    record_start(run_dir, lease=older, layout={}, first_step=0)
    record_start(run_dir, lease=take(run_dir.leases), layout={}, first_step=0)
    with pytest.raises(TakenOverError):
        record_end(run_dir, lease=older, last_step=5, why="finished")
    assert [r["event"] for r in read_attempts(run_dir)] == ["start", "start"]
