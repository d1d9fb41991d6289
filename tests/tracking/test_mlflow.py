"""With MLflow itself: sqlite shared by many, a real server killed and brought back, PostgreSQL behind it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hierlm.run_dir import RunDir
from hierlm.tracking.config import TrackingConfig
from hierlm.tracking.follower import FollowingTracker
from hierlm.tracking.jsonl import MetricsFile
from hierlm.tracking.trackers.mlflow import replay_of
from tests.conftest import ROOT, hierlm
from tests.tracking.conftest import CONFIG, write_steps
from tests.tracking.servers import MlflowServer, Postgres, until, why_no_postgres

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

ATTEMPT = """
import sys
from pathlib import Path
from hierlm.run_dir import RunDir
from hierlm.tracking.config import TrackingConfig
from hierlm.tracking.jsonl import MetricsFile
from hierlm.tracking.open import open_tracker
from tests.tracking.conftest import CONFIG, write_steps
uri, name, attempt, resumed, reached, state = sys.argv[1:]
run_dir = RunDir(Path("runs") / name)
run_dir.path.mkdir(parents=True, exist_ok=True)
MetricsFile(run_dir.metrics).truncate_after(step=int(resumed))
config = TrackingConfig(uri=uri, experiment="demo")
tracker = open_tracker(config, run_dir, run_config_flat=CONFIG, attempt=int(attempt), report=print)
write_steps(run_dir, int(resumed) + 1, int(reached))
tracker.finish(state)
"""

SQLITE = "sqlite:///runs/mlflow.db"


MORE_TO_SEND = "tracker: not everything could be sent"
"""An attempt that has been asked to stop does not wait long for a busy database; the next one sends the rest."""


def _start_attempt(
    folder: Path, uri: str, name: str, number: int, *, steps: tuple[int, int], state: str
) -> subprocess.Popen[str]:
    """A process that resumes after steps[0], reaches steps[1], and ends in `state`."""
    words = [sys.executable, "-c", ATTEMPT, uri, name, str(number), *map(str, steps), state]
    return subprocess.Popen(
        words,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _ended(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


KILLED_IN_A_MIGRATION = """
import os, signal, sys
import mlflow.store.db.utils as made_by
made_by._upgrade_db = lambda engine: os.kill(os.getpid(), signal.SIGKILL)
from pathlib import Path
from hierlm.tracking.mlflow import MlflowBackend
MlflowBackend(sys.argv[1], experiment="demo", artifact_root=Path("artifacts"))
"""


@pytest.mark.slow
def test_a_process_killed_while_it_makes_the_database_leaves_none_that_cannot_be_opened(tmp_path: Path) -> None:
    from hierlm.tracking.mlflow import MlflowBackend, runs_at_tracker

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = [sys.executable, "-c", KILLED_IN_A_MIGRATION, uri]
    done = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, check=False)
    assert done.returncode == -signal.SIGKILL
    backend = MlflowBackend(uri, experiment="demo", artifact_root=tmp_path / "artifacts")
    assert backend.find_or_create_run(name="a", tags={"hierlm.part": "run"}, parent=None, started_ms=None)
    assert [run.name for run in runs_at_tracker(uri, experiment="demo")] == ["a"]
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def client_of(uri: str) -> "MlflowClient":
    from mlflow.tracking import MlflowClient  # seconds, which every worker would spend when it collects the tests

    return MlflowClient(uri)


def _top_runs(client: "MlflowClient") -> "list[Run]":
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], "tags.`hierlm.part` = 'run'"))


def _steps(client: "MlflowClient", run: "Run", name: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, name)]


def _interrupt_three_times(folder: Path, uri: str) -> None:
    parts = [(0, 37, "KILLED"), (30, 58, "KILLED"), (50, 71, "FAILED"), (70, 100, "FINISHED")]
    for number, (resumed, reached, state) in enumerate(parts, start=1):
        output = _ended(_start_attempt(folder, uri, "demo", number, steps=(resumed, reached), state=state))
        is_server = uri.startswith("http")
        said = [line for line in output.splitlines() if state == "FINISHED" or MORE_TO_SEND not in line]
        assert len(said) == is_server, "all there is to say is where the run can be seen"
        assert output.startswith(f"tracker: {uri}/#/experiments/" if is_server else "")


def _check_one_whole_run(uri: str) -> None:
    client = client_of(uri)
    (run,) = _top_runs(client)
    assert _steps(client, run, "train/loss") == list(range(1, 101)), "every step once, monotone"
    assert _steps(client, run, "valid/loss") == list(range(10, 101, 10))
    assert run.info.status == "FINISHED"
    assert run.data.tags["hierlm.attempts"] == "4"
    children = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")
    assert sorted(child.data.tags["hierlm.phase"] for child in children) == ["long", "short"]
    by_phase = {child.data.tags["hierlm.phase"]: _steps(client, child, "train/loss") for child in children}
    assert by_phase == {"short": list(range(1, 51)), "long": list(range(51, 101))}


@pytest.mark.slow
def test_a_run_interrupted_three_times_is_one_run_on_sqlite_and_stays_in_its_folder(tmp_path: Path) -> None:
    _interrupt_three_times(tmp_path, SQLITE)
    _check_one_whole_run(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"], "no ./mlruns, no ./mlflow.db"
    assert {"mlflow.db", "demo"} <= {path.name for path in (tmp_path / "runs").iterdir()}


@pytest.mark.slow
def test_four_runs_in_parallel_on_one_new_sqlite_lose_nothing(tmp_path: Path) -> None:
    names = [f"run{index}" for index in range(4)]
    processes = [_start_attempt(tmp_path, SQLITE, name, 1, steps=(0, 300), state="FINISHED") for name in names]
    outputs = [_ended(process) for process in processes]
    late = [name for name, output in zip(names, outputs, strict=True) if output]  # on a machine much too busy
    assert all("hierlm track sync" in output for output in outputs if output)
    for name in late:
        config = TrackingConfig(uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}", experiment="demo")
        replay_of(config, RunDir(tmp_path / "runs" / name), run_config=CONFIG, attempt=None).push()
    client = client_of(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = _top_runs(client)
    assert sorted(run.info.run_name for run in runs) == names
    for run in runs:
        assert _steps(client, run, "train/loss") == list(range(1, 301))
        assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_killed_in_the_middle_and_brought_back_has_everything(
    tmp_path: Path, mlflow_server: MlflowServer
) -> None:
    run_dir = RunDir(tmp_path / "runs" / "demo")
    run_dir.path.mkdir(parents=True)
    replay = replay_of(TrackingConfig(uri=mlflow_server.uri, experiment="demo"), run_dir, run_config=CONFIG, attempt=1)
    said: list[str] = []
    tracker = FollowingTracker(replay, report=said.append, interval_seconds=0.1, longest_pause_seconds=0.5)
    client = client_of(mlflow_server.uri)
    write_steps(run_dir, 1, 100)
    until(lambda: replay.run_id != "" and len(_steps_at(client, replay.run_id)) == 100)
    mlflow_server.kill()
    write_steps(run_dir, 101, 200)
    until(lambda: any("away" in line for line in said))
    mlflow_server.start()
    until(lambda: any("back" in line for line in said))
    write_steps(run_dir, 201, 250)
    tracker.finish("FINISHED")
    (run,) = _top_runs(client)
    assert _steps(client, run, "train/loss") == list(range(1, 251))
    assert run.info.status == "FINISHED"
    assert len(said) == 3, "its page, that it is away, that it is back"


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    reason = why_no_postgres()
    if reason:
        pytest.skip(reason)
    database = Postgres()
    database.start()
    yield database
    database.stop()


@pytest.mark.matrix
def test_a_run_interrupted_three_times_is_one_run_on_a_server_with_postgresql(
    tmp_path: Path, postgres: Postgres
) -> None:
    server = MlflowServer(tmp_path, store=postgres.uri)
    server.start()
    try:
        _interrupt_three_times(tmp_path, server.uri)
        _check_one_whole_run(server.uri)
        client = client_of(server.uri)
        (run,) = _top_runs(client)
        assert client.list_artifacts(run.info.run_id) == []
    finally:
        server.kill()


@pytest.mark.slow
def test_what_never_reached_a_tracker_is_sent_by_track_sync_once(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "runs" / "demo")
    run_dir.path.mkdir(parents=True)
    run_dir.config.write_text(f"name: demo\ntracking: {{uri: '{SQLITE}', experiment: demo}}\nmodel: {{arch: lmu}}\n")
    run_dir.attempts.write_text(
        '{"event": "start", "time": "2023-11-14T22:13:20+00:00"}\n'
        '{"event": "end", "time": "2023-11-14T22:14:20+00:00", "why": "failed (RuntimeError: x)"}\n'
    )
    write_steps(run_dir, 1, 60)
    for sent in (66, 0):
        assert f"demo: {sent} records sent" in hierlm("track", "sync", "runs/demo", cwd=tmp_path).stdout
    client = client_of(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (run,) = _top_runs(client)
    assert _steps(client, run, "train/loss") == list(range(1, 61))
    assert (run.info.status, run.data.params["model.arch"]) == ("FAILED", "lmu")
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["attempts.jsonl", "config.yaml"]
    assert run.info.start_time == 1_700_000_000_000, "when training began, not when it was synchronised"


def test_track_sync_to_a_server_that_is_not_there_fails_in_one_line(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "demo")
    run_dir.path.mkdir()
    run_dir.config.write_text("tracking: {uri: 'http://127.0.0.1:9', experiment: demo}\n")
    MetricsFile(run_dir.metrics).write({"kind": "train", "step": 1, "loss": 1.0})
    done = hierlm("track", "sync", run_dir.path, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Connection refused" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "neither a run directory"),
        (["demo", "--uri", "runs.db"], "neither `none` nor SCHEME"),
        (["demo"], "tracking.uri is `none`"),
    ],
)
def test_track_sync_refuses_wrong_input_in_one_line(tmp_path: Path, words: list[str], said: str) -> None:
    run_dir = RunDir(tmp_path / "demo")
    run_dir.path.mkdir()
    run_dir.config.write_text("tracking: {uri: none}\n")
    done = hierlm("track", "sync", *words, cwd=tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert said in done.stderr


def _steps_at(client: "MlflowClient", run_id: str) -> list[int]:
    return [point.step for point in client.get_metric_history(run_id, "train/loss")]


@pytest.mark.slow
def test_what_a_job_script_exports_is_kept_without_secrets(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "runs" / "demo")
    run_dir.path.mkdir(parents=True)
    run_dir.config.write_text(f"name: demo\ntracking: {{uri: '{SQLITE}', experiment: demo}}\nmodel: {{arch: lmu}}\n")
    run_dir.job_script.write_text("export NCCL_SOCKET_IFNAME=ib0\nexport WANDB_API_KEY='s3cr3t-X9'\n")
    write_steps(run_dir, 1, 2)
    hierlm("track", "sync", "runs/demo", cwd=tmp_path)
    client = client_of(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (run,) = _top_runs(client)
    kept = Path(client.download_artifacts(run.info.run_id, "job.sbatch")).read_text()
    assert kept == "export NCCL_SOCKET_IFNAME=ib0\nexport WANDB_API_KEY=***\n"
    assert "s3cr3t-X9" in run_dir.job_script.read_text()
    others = [path for path in tmp_path.rglob("*") if path.is_file() and path != run_dir.job_script]
    assert not any(b"s3cr3t-X9" in path.read_bytes() for path in others)
