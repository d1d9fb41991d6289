"""slurm/budget.sh through train.sh: the account in the run directory, and when it is used up."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hierlm.run_dir import RunDir
from launcher.slurm.job_history import read_history, record_submit
from tests.conftest import ROOT
from tests.launcher.test_train_script import Batch


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "it's a run")
    run.path.mkdir()
    record_submit(run, job_id="20123")
    return run


def attempt(run: RunDir, *, code: int, **environment: str) -> tuple[int, str, bool]:
    """(exit code, output, requeued) of one start."""
    place = run.path.parent / f"start-{len(list(run.path.parent.glob('start-*')))}"
    place.mkdir()
    batch = Batch(place, mode="exit", code=code, HIERLM_RUN_DIR=str(run.path), **environment)
    return *batch.end(), batch.requeued


def commit(run: RunDir, step: int) -> None:
    folder = run.checkpoints / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest.json").touch()


def ends(run: RunDir) -> list[dict[str, Any]]:
    return [event for event in read_history(run) if event["event"] == "end"]


def test_a_run_that_fails_without_progress_is_given_up(run_dir: RunDir) -> None:
    limit = {"HIERLM_MAX_STARTS_WITHOUT_PROGRESS": "3"}
    assert [attempt(run_dir, code=1, **limit)[2] for _ in range(3)] == [True, True, False]
    assert [end["then"] for end in ends(run_dir)] == ["requeue", "requeue", "stop"]
    reason = "gave up after 3 starts from nothing without a newer checkpoint; last: failed with exit code 1"
    assert ends(run_dir)[-1]["reason"] == reason


def test_a_start_beyond_the_budget_does_not_run(run_dir: RunDir) -> None:
    for _ in range(2):
        attempt(run_dir, code=1, HIERLM_MAX_STARTS_WITHOUT_PROGRESS="2")
    code, output, _ = attempt(run_dir, code=0, HIERLM_MAX_STARTS_WITHOUT_PROGRESS="2")
    assert code == 1 and "gave up after 2 starts" in output and "hierlm submit" in output
    assert not (run_dir.path.parent / "start-2" / "started").exists()


def test_a_new_checkpoint_renews_the_budget(run_dir: RunDir) -> None:
    limit = {"HIERLM_MAX_STARTS_WITHOUT_PROGRESS": "2"}
    requeued = []
    for step in (0, 10, 20, 30):
        if step:
            commit(run_dir, step)
        requeued.append(attempt(run_dir, code=1, **limit)[2])
    assert requeued == [True] * 4
    assert attempt(run_dir, code=1, **limit)[2] is False


def test_a_directory_without_a_manifest_is_no_progress(run_dir: RunDir) -> None:
    limit = {"HIERLM_MAX_STARTS_WITHOUT_PROGRESS": "2"}
    attempt(run_dir, code=1, **limit)
    (run_dir.checkpoints / "step-00000010").mkdir(parents=True)
    (run_dir.checkpoints / "step-00000010.partial").mkdir()
    (run_dir.checkpoints / "step-00000010.partial" / "manifest.json").touch()
    assert attempt(run_dir, code=1, **limit)[2] is False


def test_all_starts_have_a_budget_too(run_dir: RunDir) -> None:
    requeued = []
    for step in (10, 20, 30):
        commit(run_dir, step)
        requeued.append(attempt(run_dir, code=85, HIERLM_MAX_STARTS="3")[2])
    assert requeued == [True, True, False]
    assert ends(run_dir)[-1]["reason"] == "gave up after 3 starts; last: stopped early"


def test_submitting_again_starts_a_new_count(run_dir: RunDir) -> None:
    limit = {"HIERLM_MAX_STARTS_WITHOUT_PROGRESS": "1"}
    assert attempt(run_dir, code=1, **limit)[2] is False
    record_submit(run_dir, job_id="20124")
    assert attempt(run_dir, code=0, **limit)[0] == 0


def test_a_killed_start_counts(run_dir: RunDir) -> None:
    """It leaves no word about its end."""
    with run_dir.jobs.open("a") as file:
        file.write(json.dumps({"event": "start", "job_id": "1", "newest_checkpoint": -1, "nodes": "n"}) + "\n")
    assert attempt(run_dir, code=1, HIERLM_MAX_STARTS_WITHOUT_PROGRESS="2")[2] is False


def test_a_finished_run_does_not_start(run_dir: RunDir) -> None:
    run_dir.finished.touch()
    code, output, requeued = attempt(run_dir, code=1)
    assert code == 0 and "nothing is left to do" in output and not requeued
    assert not (run_dir.path.parent / "start-0" / "started").exists()


def test_wrong_input_is_not_tried_again(run_dir: RunDir) -> None:
    code, _, requeued = attempt(run_dir, code=2)
    assert code == 2 and not requeued
    assert ends(run_dir)[-1] | {"time": ""} == {
        "time": "", "event": "end", "job_id": "20123", "exit_code": 2, "then": "stop", "reason": "the input is wrong",
    }  # fmt: skip


def test_the_scripts_that_people_call_can_be_called() -> None:
    for name in ("test-cluster.sh", "train.sh"):
        assert os.access(ROOT / "slurm" / name, os.X_OK), name
