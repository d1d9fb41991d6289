"""A run on a real Slurm: it finishes, and what interrupts it leaves no trace in its weights."""

import sqlite3
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.conftest import ROOT, hierlm, hierlm_path
from tests.slurm.cluster import TestCluster, wait_until
from tests.slurm.conftest import wait_for_idle
from tests.slurm.runs import Place, SubmittedRun

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

LONG = ("phases.0.duration.steps=150",)
"""Longer than 30 s with the brake on: Slurm looks at time limits so often only."""
LONGER = ("phases.0.duration.steps=500",)
"""Still running, with the brake on, when Slurm has given up a node and started the job on another one."""
TWO_RANKS = ("parallel.data_parallel_degree=2", "parallel.zero_stage=1")


@pytest.fixture(scope="module")
def place(cluster: TestCluster, tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Place:
    return Place(cluster, tmp_path_factory.mktemp("runs"), tiny_dataset)


@pytest.fixture(scope="module")
def interrupted(place: Place) -> SubmittedRun:
    """A run that has met a time limit, a warning by hand and a preemption, and has ended."""
    cluster = place.cluster
    place.brake.touch()
    run = place.submit("interrupted", *LONG, *TWO_RANKS, partition="low")
    run.wait_for_step(3)
    cluster.run("scontrol", "update", f"jobid={run.job_id}", "EndTime=now+61")  # the warning comes 60 s before
    wait_until(lambda: any(event["event"] == "end" for event in run.records("jobs")), seconds=120, what=run.log)
    cluster.run("scontrol", "update", f"jobid={run.job_id}", "TimeLimit=10")  # else every start would be warned at once
    run.wait_for_start(2)
    run.wait_for_step(run.records("attempts")[-1]["first_step"] + 5)
    cluster.run("srun", "-p", "high", "-N2", "--exclusive", "sleep", "1")
    place.brake.unlink()
    run.wait_for_end(seconds=240)
    return run


def undisturbed_digest(place: Place, name: str, *duration: str) -> str:
    """Of the weights of the same run on this machine, never interrupted."""
    words = (f"name={name}", f"data.path={place.dataset}", "train.log_every.steps=1", *duration, *TWO_RANKS)
    hierlm("train", ROOT / "configs" / "tiny" / "transformer.yaml", *words, cwd=place.folder)
    return SubmittedRun(place, place.folder / "runs" / name, "").digest()


@pytest.fixture(scope="module")
def undisturbed(place: Place) -> str:
    return undisturbed_digest(place, "undisturbed", *LONG)


@pytest.fixture(scope="module")
def longer_undisturbed(place: Place) -> str:
    return undisturbed_digest(place, "longer-undisturbed", *LONGER)


def test_a_run_on_two_nodes_finishes_and_says_so(place: Place) -> None:
    """Four processes, data 2 x pipeline 2."""
    layout = ("parallel.data_parallel_degree=2", "parallel.pipeline_parallel_degree=2")
    run = place.submit("first", *layout, "parallel.zero_stage=1", "phases.0.duration.steps=60", processes_per_node=2)
    place.cluster.wait_for_state(run.job_id, "RUNNING", seconds=30)
    wait_until(lambda: run.status()["state"] == "running", seconds=30)
    run.wait_for_step(1)
    seen = run.status()
    assert seen["state"] in ("running", "finished") and seen["phase"] == "pretrain" and seen["attempts"] == 1
    assert 1 <= seen["step"] <= seen["num_steps"] == 60 and seen["loss"] > 0 and seen["tokens_per_second"] > 0
    assert run.wait_for_end() == "COMPLETED"
    assert run.status()["state"] == "finished"
    assert "step 60/60" in place.hierlm("logs", run.path, "-n", "20").stdout
    with sqlite3.connect(place.folder / "runs" / "mlflow.db") as database:
        (runs,) = database.execute("select count(*) from runs where name = 'first'").fetchone()
    assert runs == 1


def test_an_allocation_of_ones_own_is_used_whole_and_srun_alone_goes_on_with_the_run(place: Place) -> None:
    """`salloc` and `hierlm train` in it; then a bare `srun python -m hierlm`, which finds its own meeting point."""
    config = ROOT / "configs" / "tiny" / "transformer.yaml"
    words = ["name=by-hand", f"data.path={place.dataset}", *TWO_RANKS, "phases.0.learning_rate.warmup.steps=0"]
    train = [hierlm_path(), "train", config, *words, "phases.0.duration.steps=4"]
    allocation = ["salloc", "--nodes=2", "--ntasks-per-node=1", "--quiet"]
    place.cluster.run(*map(str, [*allocation, *train]), cwd=place.folder)
    run = SubmittedRun(place, place.folder / "runs" / "by-hand", "")
    assert {record["host"] for record in run.records("attempts")} <= {"node1", "node2"}
    (run.path / "FINISHED").unlink()
    wait_for_idle(place.cluster)
    alone = ["srun", "--nodes=2", "--ntasks=2", sys.executable, "-m", "hierlm", str(run.path)]
    place.cluster.run(*alone, cwd=place.folder)
    first, second = (record for record in run.records("attempts") if record["event"] == "start")
    assert (first["first_step"], second["first_step"]) == (0, 4)


def test_an_interrupted_run_ends_as_if_nothing_had_been(interrupted: SubmittedRun, undisturbed: str) -> None:
    assert interrupted.place.cluster.job(interrupted.job_id)["JobState"] == "COMPLETED", interrupted.log()
    assert interrupted.status()["state"] == "finished"
    assert interrupted.digest() == undisturbed


def test_each_start_goes_on_where_the_one_before_stopped(interrupted: SubmittedRun) -> None:
    starts = [record for record in interrupted.records("attempts") if record["event"] == "start"]
    assert len(starts) >= 3
    assert all(before["first_step"] < after["first_step"] for before, after in pairwise(starts))
    assert interrupted.status()["attempts"] >= len(starts)


def test_the_history_names_what_interrupted_it(interrupted: SubmittedRun) -> None:
    ends = [event for event in interrupted.records("jobs") if event["event"] == "end"]
    assert ends[0]["reason"] == "stopped early" and ends[-1] == {**ends[-1], "exit_code": 0, "then": "stop"}
    assert [event["event"] for event in interrupted.records("jobs")].count("start") >= 3


def test_the_metrics_hold_every_step_once(interrupted: SubmittedRun) -> None:
    assert steps_of(interrupted) == list(range(1, 151))


def test_a_run_goes_on_with_the_nodes_that_are_left(place: Place, whole_cluster: TestCluster, undisturbed: str) -> None:
    """A node loses its power; Slurm notices, and the job goes on at half the data-parallel degree."""
    place.brake.touch()
    run = place.submit("shrunk", *LONG, *TWO_RANKS, min_nodes=1)
    run.wait_for_step(25)
    whole_cluster.node("kill", "node2")
    run.wait_for_start(2)
    place.brake.unlink()
    assert run.wait_for_end(seconds=240) == "COMPLETED", run.log()
    first, second = (record for record in run.records("attempts") if record["event"] == "start")
    assert (first["layout"]["data_parallel_degree"], second["layout"]["data_parallel_degree"]) == (2, 1)
    assert second["first_step"] >= 20  # the last checkpoint before the cut
    assert steps_of(run) == list(range(1, 151))
    whole = SubmittedRun(place, place.folder / "runs" / "undisturbed", "")
    assert last_loss(run) == pytest.approx(last_loss(whole), rel=1e-4)


@pytest.mark.parametrize("action", [pytest.param("term", marks=pytest.mark.matrix), "cut"])
def test_ranks_that_live_on_where_slurm_has_lost_sight_of_them_are_kept_out(
    place: Place, whole_cluster: TestCluster, longer_undisturbed: str, action: str
) -> None:
    """Only the node's daemon dies, or its cable is cut: the old processes go on computing beside the requeued job."""
    place.brake.touch()
    run = place.submit(f"fenced-{action}", *LONGER, *TWO_RANKS, processes_per_node=2)
    run.wait_for_step(15)
    lost = run.status()["nodes"]
    whole_cluster.node(action, lost)
    run.wait_for_start(2)
    said = (run.path / "logs" / "rank-0000.log").read_text
    wait_until(lambda: "has taken over this run; this one stops" in said(), seconds=60, what=said)
    place.brake.unlink()
    assert run.wait_for_end(seconds=240) == "COMPLETED", run.log()
    first, second = (record for record in run.records("attempts") if record["event"] == "start")
    assert second["host"] != first["host"] == lost
    assert steps_of(run) == list(range(1, 501))
    assert run.digest() == longer_undisturbed


def steps_of(run: SubmittedRun) -> list[int]:
    return [record["step"] for record in run.records("metrics") if record["kind"] == "train"]


def last_loss(run: SubmittedRun) -> float:
    return [record["loss"] for record in run.records("metrics") if record["kind"] == "train"][-1]
