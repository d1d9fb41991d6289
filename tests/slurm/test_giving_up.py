"""What ends a run for good: a budget of starts that is used up, and a person."""

import sqlite3
from pathlib import Path

import pytest

from tests.slurm.cluster import TestCluster, wait_until
from tests.slurm.runs import Place

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(cluster: TestCluster, tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Place:
    return Place(cluster, tmp_path_factory.mktemp("runs"), tiny_dataset)


def test_a_crash_loop_ends_with_the_budget_and_says_why(place: Place) -> None:
    run = place.submit("crashing", max_starts_without_progress=2, environment={"HIERLM_TEST_CRASH_AT": "3"})
    assert run.wait_for_end(seconds=240) == "FAILED"
    assert [event["event"] for event in run.records("jobs")] == ["submit", "start", "end", "start", "end"]
    status = run.status()
    assert status["state"] == "failed" and status["attempts"] == 2
    assert "gave up after 2 starts from nothing without a newer checkpoint" in status["reason"]
    assert "injected by the test" in status["reason"]
    assert "gave up after 2 starts" in run.log()
    with sqlite3.connect(place.folder / "runs" / "mlflow.db") as database:
        assert database.execute("select status from runs where name = 'crashing'").fetchall() == [("FAILED",)]


def test_a_cancelled_run_saves_and_stays_away_from_the_queue(place: Place) -> None:
    run = place.submit("cancelled", "phases.0.duration.steps=5000", "checkpoint.every.steps=5000")
    run.wait_for_step(3)
    printed = place.hierlm("cancel", run.path).stdout
    assert printed == f"job {run.job_id} cancelled\n"
    assert run.wait_for_end(seconds=60) == "CANCELLED"
    wait_until(lambda: place.cluster.run("squeue", "-h") == "", seconds=30)
    assert run.status()["state"] == "cancelled"
    assert list(run.path.glob("checkpoints/step-*/manifest.json"))
    assert int(place.cluster.job(run.job_id)["Restarts"]) == 0


def test_a_waiting_run_says_why_and_can_be_cancelled(place: Place) -> None:
    run = place.submit("waiting", sbatch_lines=["--begin=now+1hour"])
    status = run.status()
    assert status["state"] == "waiting" and "BeginTime" in status["reason"] and "starts at" in status["reason"]
    place.hierlm("cancel", "waiting")
    assert run.status()["state"] == "cancelled"
    assert run.status()["attempts"] == 0


def test_a_run_without_a_job_is_told_so(place: Place) -> None:
    run = place.submit("gone", sbatch_lines=["--begin=now+1hour"])
    place.cluster.run("scancel", run.job_id)
    assert run.status()["state"] == "cancelled"
    assert place.hierlm("cancel", "gone").stdout == "runs/gone: nothing of it waits or runs\n"
