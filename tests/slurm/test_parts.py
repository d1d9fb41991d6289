"""A run as several jobs, and several runs as one job array."""

import json
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.slurm.cluster import TestCluster, wait_until
from tests.slurm.runs import Place, SubmittedRun

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(cluster: TestCluster, tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Place:
    folder = tmp_path_factory.mktemp("runs") / 'it\'s a "folder" of $HOME, 50%j'
    folder.mkdir()
    return Place(cluster, folder, tiny_dataset)


def two_phases(place: Place) -> Path:
    """A config of two phases of ten steps, the second of longer rows."""
    curve = {"peak": 1e-3}
    first = {"name": "short", "duration": {"steps": 10}, "sequence_length": 64, "global_batch_size": 8}
    config = {
        "name": "phased",
        "model": {"arch": "transformer", "hidden_dim": 32, "num_heads": 2, "ffn_dim": 64, "num_layers": 1},
        "data": {"path": str(place.dataset)},
        "phases": [
            {**first, "learning_rate": curve},
            {"name": "long", "duration": {"steps": 10}, "sequence_length": 128},
        ],
        "train": {"precision": "fp32", "log_every": {"steps": 1}, "eval_rows": 8},
    }
    path = place.folder / "phased.yaml"
    path.write_text(json.dumps(config))
    return path


def test_each_phase_is_a_job_of_the_chain(place: Place) -> None:
    done = place.hierlm("submit", two_phases(place), "--chain", "--cluster", place.site(), "--json")
    first, second = json.loads(done.stdout)["job_ids"]
    run = SubmittedRun(place, place.folder / "runs" / "phased", second)
    place.cluster.wait_for_state(first, "RUNNING", seconds=20)
    assert place.cluster.job(second)["Dependency"].startswith(f"afterok:{first}")
    assert run.wait_for_end() == "COMPLETED"
    assert run.status()["state"] == "finished" and run.status()["attempts"] == 2
    assert "phase short is finished (step 10)" in run.log() and "finished: " in run.log()
    ends = [record for record in run.records("attempts") if record["event"] == "end"]
    assert [(end["job_id"], end["last_step"], end["why"]) for end in ends] == [
        (first, 10, "finished phase short"),
        (second, 20, "finished"),
    ]
    with sqlite3.connect(place.folder / "runs" / "mlflow.db") as database:
        assert database.execute("select status from runs where name = 'phased'").fetchall() == [("FINISHED",)]


def test_cancelling_a_chain_takes_all_its_jobs_out_of_the_queue(place: Place) -> None:
    site = place.site(sbatch_lines=["--begin=now+1hour"])
    words = ("submit", two_phases(place), "name=unwanted", "--chain", "--cluster", site, "--json")
    jobs = json.loads(place.hierlm(*words).stdout)["job_ids"]
    refused = place.hierlm(*words, check=False)
    assert refused.returncode == 2 and f"job {', '.join(jobs)} of this run is in the queue" in refused.stderr
    cancelled = json.loads(place.hierlm("cancel", "unwanted", "--json").stdout)["cancelled_jobs"]
    assert sorted(cancelled) == sorted(jobs)
    assert place.cluster.run("squeue", "-h", "--name=unwanted") == ""


def test_every_member_of_a_sweep_is_a_run_of_its_own(place: Place) -> None:
    axes = ("--array", "phases.0.learning_rate.peak=0.001,0.01", "--array", "model.num_layers=1,2", "--at-once", "2")
    overrides = ("name=sweep", f"data.path={place.dataset}", "phases.0.duration.steps=10")
    config = ROOT / "configs" / "tiny" / "transformer.yaml"
    done = json.loads(place.hierlm("submit", config, *overrides, *axes, "--cluster", place.site(), "--json").stdout)
    assert done["runs"] == [f"sweep-peak{peak}-num_layers{n}" for peak in ("0.001", "0.01") for n in (1, 2)]
    wait_until(lambda: {"JobArrayTaskLimit"} == why_waiting(place), seconds=20, what=lambda: str(sweep(place)))
    wait_until(lambda: not still_going(place), seconds=300, every=1, what=lambda: told(place))
    assert {status["state"] for status in sweep(place)} == {"finished"}, told(place)
    losses = {status["loss"] for status in sweep(place)}
    assert len(losses) == 4
    # the tracker comes to the end of a run's records a little after the run
    wait_until(lambda: tracked_sweeps(place) == [("sweep", 4)], seconds=60, what=lambda: str(tracked_sweeps(place)))


def test_cancelling_a_sweep_cancels_every_member(place: Place) -> None:
    words = ("name=dropped", f"data.path={place.dataset}", "--array", "seed=1,2,3")
    site = place.site(sbatch_lines=["--begin=now+1hour"])
    config = ROOT / "configs" / "tiny" / "transformer.yaml"
    place.hierlm("submit", config, *words, "--cluster", site)
    assert place.hierlm("cancel", "dropped").stdout.count(" cancelled") == 3
    assert place.cluster.run("squeue", "-h", "--name=dropped") == ""
    assert {status["state"] for status in sweep(place, "dropped")} == {"cancelled"}


def sweep(place: Place, name: str = "sweep") -> list[dict]:
    return json.loads(place.hierlm("status", name, "--json").stdout)


def still_going(place: Place) -> set[str]:
    """The states of members that have not ended."""
    return {status["state"] for status in sweep(place)} & {"waiting", "running"}


def tracked_sweeps(place: Place) -> list[tuple[str, int]]:
    """Sweeps in MLflow, and how many runs each has."""
    with sqlite3.connect(place.folder / "runs" / "mlflow.db") as database:
        return database.execute(
            "select parent.name, count(*) from runs parent join tags on tags.value = parent.run_uuid "
            "where tags.key = 'mlflow.parentRunId' and parent.name = 'sweep' group by parent.run_uuid"
        ).fetchall()


def told(place: Place) -> str:
    """What Slurm, `status` and the members' logs say."""
    logs = "".join(place.hierlm("logs", status["run"], check=False).stdout[-3000:] for status in sweep(place))
    return f"{place.cluster.run('squeue')}\n{place.cluster.run('sinfo', '-N')}\n{sweep(place)}\n{logs}"


def why_waiting(place: Place) -> set[str]:
    return {status["reason"] for status in sweep(place) if status["state"] == "waiting"}


def test_a_dataset_prepared_by_an_array_job_is_the_one_prepared_here(place: Place) -> None:
    texts = place.folder / "texts"
    texts.mkdir()
    for number in range(5):
        (texts / f"{number}.txt").write_text(f"line of {number}\n" * 2000 * (number + 1))
    words = ["data", "prepare", "--input", "texts", "--shard-tokens", "20000", "--splits", "valid=0.1"]
    place.hierlm(*words, "--output", "here")
    done = place.hierlm(*words, "--output", "there", "--parts", "3", "--cluster", place.site(), "--json")
    *_, merge = json.loads(done.stdout)["job_ids"]
    ends = ("COMPLETED", "FAILED", "CANCELLED")
    assert place.cluster.wait_for_state(merge, *ends, seconds=120) == "COMPLETED"
    assert "every shard is what dataset.json says" in place.hierlm("data", "verify", "there").stdout
    tokens = [json.loads((place.folder / name / "dataset.json").read_text())["splits"] for name in ("here", "there")]
    totals = [{name: split["tokens"] for name, split in splits.items()} for splits in tokens]
    assert totals[0] == totals[1]
