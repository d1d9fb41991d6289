"""A run in which nothing moves any more ends by itself and says who held it up."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.conftest import hierlm
from tests.end_to_end.test_resume import arguments, started, wait_for_step, worker_ids


@pytest.mark.slow
@pytest.mark.distributed
def test_a_stopped_rank_is_named_the_stacks_are_kept_and_the_run_can_go_on(tiny_dataset: Path, tmp_path: Path) -> None:
    process = started(tiny_dataset, "hung", tmp_path, "train.hang_after_seconds=15")
    run = tmp_path / "runs" / "hung"
    wait_for_step(run, 12)
    stopped = min(worker_ids(run))  # the rank that tells of its node's ranks, and that writes the run's records
    os.kill(stopped, signal.SIGSTOP)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 1, output
    assert f"process {stopped}) does not answer" in output
    assert "the stacks of rank 1" in (run / "logs" / "rank-0001.log").read_text()
    ends = [json.loads(line) for line in (run / "attempts.jsonl").read_text().splitlines()]
    assert ends[-1]["event"] == "end" and "no progress for 15 s" in ends[-1]["why"]
    assert "resumed from" in hierlm(*arguments(tiny_dataset, "hung"), cwd=tmp_path).stdout
