"""attempts.jsonl survives a torn line and counts attempts from 1."""

from pathlib import Path

from hierlm.run_dir import RunDir
from hierlm.train.attempts import read_attempts, record_end, record_start


def test_attempts_are_counted_from_one(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert record_start(run_dir, layout={"data": 1}, first_step=0) == 1
    record_end(run_dir, attempt=1, last_step=5, why="stopped (SIGTERM)")
    assert record_start(run_dir, layout={"data": 2}, first_step=5) == 2
    assert [r["event"] for r in read_attempts(run_dir)] == ["start", "end", "start"]


def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    record_start(run_dir, layout={}, first_step=0)
    with run_dir.attempts.open("a") as file:
        file.write('{"event": "end", "att')
    assert record_start(run_dir, layout={}, first_step=3) == 2
    assert [r["event"] for r in read_attempts(run_dir)] == ["start", "start"]
