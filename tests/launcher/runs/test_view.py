"""Status and logs from run directories, as they are read while others write them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hierlm.errors import UserError
from hierlm.run_dir import RunDir
from launcher import run_logs
from launcher.runs import view
from launcher.runs.table import line
from launcher.slurm.client import QueuedJob
from launcher.slurm.job_history import record_submit
from tests.launcher.slurm.test_client import Answers

CONFIG = """\
phases:
- {name: a, duration: {steps: 10}, sequence_length: 10, global_batch_size: 2, learning_rate: {peak: 1.0}}
- {name: b, duration: {tokens: 400}, sequence_length: 20, global_batch_size: 2, learning_rate: {peak: 1.0}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    found = RunDir(tmp_path / "runs" / "some-run")
    found.logs.mkdir(parents=True)
    found.config.write_text(CONFIG)
    return found


def log_steps(run: RunDir, *steps: int, torn: str = "") -> None:
    with run.metrics.open("a") as file:
        for step in steps:
            record = {"kind": "train", "step": step, "phase": "a", "loss": 1 / step, "tokens_seen": 20 * step}
            file.write(json.dumps({**record, "tokens_per_second": 40.0}) + "\n")
        file.write('{"kind": "eval", "step": 3, "split": "valid", "loss": 9.0}\n' + torn)


def status(run: RunDir, *jobs: QueuedJob) -> view.RunStatus:
    cluster = view.Cluster(run_command=Answers(scontrol=UserError("forgotten"), sacct=UserError("none")))
    return view.status_of(run, queue=jobs, cluster=cluster)


def running(run: RunDir) -> QueuedJob:
    return QueuedJob("7", "RUNNING", None, 1, 1, None, "node[1-2]", f"{run.job_script} --until a")


def test_numbers_come_from_the_last_training_record(run: RunDir) -> None:
    log_steps(run, 1, 2, 4, torn='{"kind": "train", "step": 5, "lo')
    seen = status(run, running(run))
    assert (seen.phase, seen.step, seen.num_steps, seen.loss) == ("a", 4, 20, 0.25)
    assert seen.eta_seconds == (600 - 80) / 40
    assert (seen.state, seen.job_ids, seen.nodes) == ("running", ("7",), "node[1-2]")


def test_only_the_end_of_a_long_file_is_read(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "TAIL_BYTES", 500)
    log_steps(run, *range(1, 3000))
    assert status(run).step == 2999


def test_a_run_that_does_not_run_has_no_time_left(run: RunDir) -> None:
    log_steps(run, 4)
    assert status(run).eta_seconds is None


def test_jobs_of_other_runs_are_not_taken_for_its_own(run: RunDir) -> None:
    other = QueuedJob("8", "RUNNING", None, 1, 1, None, "node3", f"{run.job_script}.old")
    assert status(run, other).job_ids == ()
    record_submit(run, job_id="8")
    assert status(run, other).job_ids == ("8",)


def test_the_line_leaves_out_what_is_not_known(run: RunDir) -> None:
    assert line(status(run)) == "some-run | state new | step 0/20 | attempts 0 | why never started"


def test_a_run_is_found_by_name_and_by_path(run: RunDir) -> None:
    assert view.find_run("some-run").path == Path("runs/some-run")
    assert view.find_run(run.path) == run
    with pytest.raises(UserError, match=r"some-rum: neither a run directory .* nearest: some-run"):
        view.find_run("some-rum")


def test_the_newest_job_log_is_the_log(run: RunDir) -> None:
    assert run_logs.newest_log(run) is None
    run.console_log.touch()
    assert run_logs.newest_log(run) == run.console_log
    (run.logs / "job-7.log").touch()
    assert run_logs.newest_log(run) == run.logs / "job-7.log"


@pytest.mark.parametrize("count", [0, 1, 7, 5000])
def test_the_last_lines_of_a_file_of_any_size(run: RunDir, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_logs, "TAIL_BLOCK_BYTES", 64)
    lines = [f"line {number} ä" for number in range(1000)]
    path = run.logs / "job-1.log"
    path.write_text("\n".join(lines) + "\n")
    assert run_logs.last_lines(path, count) == (lines[-count:] if count else lines)


def test_following_prints_what_is_added_and_goes_on_with_the_next_job(run: RunDir) -> None:
    first, second = run.logs / "job-1.log", run.logs / "job-2.log"
    first.write_text("old\n")
    story = _story(first, second)
    pieces = run_logs.follow(run, is_active=lambda: next(story), poll_seconds=0.01)
    assert "".join(pieces) == f"added\nlast words\n==> {second}\nsecond job\n"


def _story(first: Path, second: Path) -> Iterator[bool]:
    yield True
    _append(first, "added\n")
    yield True
    _append(first, "last words\n")
    yield True
    _append(second, "second job\n")
    yield True
    yield from iter(lambda: False, True)


def _append(path: Path, text: str) -> Any:
    with path.open("a") as file:
        file.write(text)
