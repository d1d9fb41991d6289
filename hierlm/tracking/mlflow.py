"""MLflow, and the only file that imports it. Importing this file takes seconds: do it in the background.

Limits of MLflow 3 handled here: 1000 metrics, 100 params and 100 tags per request, keys of 250, params of 6000 and
tags of 8000 characters; sqlite databases migrated by two processes at once break; a database of ours must not make
`./mlruns`; console noise and retries that block for minutes are off (telemetry: hierlm/__init__.py).
"""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from glob import escape
from itertools import islice
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the follower tries again itself
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow.entities import Dataset as MlflowDataset
from mlflow.entities import (
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from data_pipeline.masking import holds_secret, masked
from hierlm import metric_names
from hierlm.durable import rename, sync
from hierlm.tracking.backend import MAX_POINTS, Dataset, Point, Status, TrackedRun
from hierlm.tracking.file_lock import locked

_KEY_LENGTH, _PARAM_LENGTH, _TAG_LENGTH, _MODEL_PARAM_LENGTH, _BATCH = 250, 6000, 5000, 250, 100
_WRITTEN_BY_US = (".sbatch", ".yaml", ".json")
_PARENT_TAG = "mlflow.parentRunId"
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # its UI shows training, not chat, then
_MODEL_NAME_REFUSED = re.compile(r"[^A-Za-z0-9_-]")
_SQLITE, _MAKING = "sqlite:///", ".making"
_GONE = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


class MlflowBackend:
    """One experiment at one MLflow server or database."""

    def __init__(self, uri: str, *, experiment: str, artifact_root: Path) -> None:
        """Connect, and make the database and the experiment where they are missing. `artifact_root` is for databases:
        a server keeps artifacts where it was told to."""
        self._uri = uri.rstrip("/")
        self._is_server = uri.startswith(("http://", "https://"))
        self._artifact_root = artifact_root.absolute()
        self._lock_file = _lock_file(uri)
        with self._one_process():
            if self._lock_file is not None:
                _make_database(_database_file(uri), artifact_root=self._artifact_root)
            self.client = _connected(uri, artifact_root=None if self._is_server else self._artifact_root)
            self.experiment_id = self._find_or_create_experiment(experiment)

    def address(self, run_id: str) -> str:
        return f"{self._uri}/#/experiments/{self.experiment_id}/runs/{run_id}" if self._is_server else ""

    def find_or_create_run(
        self, *, name: str, tags: Mapping[str, str], parent: str | None, started_ms: int | None
    ) -> str:
        """The oldest run with all `tags`, so that processes that race for a shared parent agree on one."""
        with self._one_process():
            found = self._runs_with(tags)
            if found:
                return found[0]
            more = {_PARENT_TAG: parent} if parent else {}
            run = self.client.create_run(
                self.experiment_id, start_time=started_ms, run_name=name, tags={**tags, **more, **_user_tag()}
            )
        return self._elected(tags, mine=str(run.info.run_id))

    def statuses_below(self, run_id: str) -> list[Status]:
        below = _search(self.client, self.experiment_id, f"tags.`{_PARENT_TAG}` = '{run_id}'")
        return [run.info.status for run in below]

    def is_live(self, run_id: str) -> bool:
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in _GONE:
                return False
            raise
        return run.info.lifecycle_stage == "active" and run.info.experiment_id == self.experiment_id

    def params(self, run_id: str) -> dict[str, str]:
        return dict(self.client.get_run(run_id).data.params)

    def kept_param(self, value: str) -> str:
        return value[:_PARAM_LENGTH]

    def log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        params = [Param(key[:_KEY_LENGTH], self.kept_param(value)) for key, value in values.items()]
        for batch in _batches(params, size=_BATCH):
            self.client.log_batch(run_id, params=batch)

    def log_dataset(self, run_id: str, dataset: Dataset) -> None:
        entity = MlflowDataset(
            name=dataset.name[:_KEY_LENGTH],
            digest=dataset.digest[:36],
            source_type="local",
            source=dataset.source,
            profile=dataset.profile,
        )
        with _if_the_server_can():
            tags = [InputTag("mlflow.data.context", "training")]
            self.client.log_inputs(run_id, datasets=[DatasetInput(entity, tags)])

    def log_model(self, run_id: str, *, name: str, params: Mapping[str, str]) -> None:
        with _if_the_server_can():
            self._log_model(run_id, name=name, params=params)

    def _log_model(self, run_id: str, *, name: str, params: Mapping[str, str]) -> None:
        outputs = self.client.get_run(run_id).outputs
        if outputs is not None and outputs.model_outputs:
            return
        kept = {key[:_KEY_LENGTH]: value[:_MODEL_PARAM_LENGTH] for key, value in params.items()}
        model = self.client.create_logged_model(
            self.experiment_id,
            name=_MODEL_NAME_REFUSED.sub("-", name),
            source_run_id=run_id,
            params=kept,
            model_type=params.get("arch"),
        )
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        assert len(points) <= MAX_POINTS
        self.client.log_batch(
            run_id, metrics=[Metric(p.name[:_KEY_LENGTH], p.value, p.time_ms, p.step) for p in points]
        )

    def last_steps(self, run_id: str) -> dict[str, int]:
        one_of_each = {
            metric_names.stream_and_field(name)[0]: name for name in self.client.get_run(run_id).data.metrics
        }
        histories = {stream: self.client.get_metric_history(run_id, name) for stream, name in one_of_each.items()}
        return {stream: max(point.step for point in history) for stream, history in histories.items() if history}

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        kept = [RunTag(key[:_KEY_LENGTH], value[:_TAG_LENGTH]) for key, value in tags.items()]
        for batch in _batches(kept, size=_BATCH):
            self.client.log_batch(run_id, tags=batch)

    def log_artifact(self, run_id: str, path: Path) -> None:
        """A job script exports what the site's profile names, keys of services among it: they stay here."""
        text = path.read_text(encoding="utf-8", errors="replace") if path.suffix in _WRITTEN_BY_US else ""
        if not holds_secret(text):
            self.client.log_artifact(run_id, str(path))
            return
        with TemporaryDirectory() as folder:
            copy = Path(folder) / path.name
            copy.write_text(masked(text), encoding="utf-8")
            self.client.log_artifact(run_id, str(copy))

    def set_status(self, run_id: str, status: Status) -> None:
        if status in ("RUNNING", "SCHEDULED"):
            self.client.update_run(run_id, status=status)
        else:
            self.client.set_terminated(run_id, status=status)

    def _find_or_create_experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                location = None if self._is_server else self._artifact_root.as_uri()
                return str(self.client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS))
            except MlflowException:  # another process was faster, or the name cannot be used
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _runs_with(self, tags: Mapping[str, str]) -> list[str]:
        quoted = " and ".join(f"tags.`{key}` = '{_quoted(value)}'" for key, value in tags.items())
        return [str(run.info.run_id) for run in _search(self.client, self.experiment_id, quoted)]

    def _elected(self, tags: Mapping[str, str], *, mine: str) -> str:
        """Where no lock is shared (a server), two may have created the run: the oldest stays, the other goes."""
        oldest = next(iter(self._runs_with(tags)), mine)
        if oldest != mine:
            self.client.delete_run(mine)
        return oldest

    @contextmanager
    def _one_process(self) -> Iterator[None]:
        if self._lock_file is None:
            yield
        else:
            with locked(self._lock_file):
                yield


def _connected(uri: str, *, artifact_root: Path | None) -> MlflowClient:
    for name in ("mlflow", "alembic", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is raised too, and said in one line
    if artifact_root is not None:  # else MLflow's own default experiment would point to ./mlruns
        os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = artifact_root.as_uri()
    return MlflowClient(tracking_uri=uri)


def _make_database(path: Path, *, artifact_root: Path) -> None:
    """Make an sqlite database that is missing, beside its place: a process killed amid MLflow's hundred migrations
    would leave one that nobody can open. The caller holds the lock, so what earlier ones left beside it is nobody's.

    The copy that takes the place holds all of it in one file, whatever journal MLflow's own connections keep.
    """
    if path.exists():
        return
    for left in path.parent.glob(f".{escape(path.name)}.*{_MAKING}"):
        rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=f".{path.name}.", suffix=_MAKING, dir=path.parent) as folder:
        draft, whole = Path(folder).absolute() / "draft.db", Path(folder) / "whole.db"
        _connected(f"sqlite:///{draft}", artifact_root=artifact_root)
        with closing(sqlite3.connect(draft)) as made:
            made.execute("VACUUM INTO ?", (str(whole),))
        sync(whole)
        rename(whole, path)


@contextmanager
def _if_the_server_can() -> Iterator[None]:
    """Servers older than MLflow 3 have no datasets or models of their own: runs are complete without."""
    try:
        yield
    except MlflowException as error:
        if error.error_code != "ENDPOINT_NOT_FOUND":
            raise


def _lock_file(uri: str) -> Path | None:
    """Beside the database; a server needs none."""
    return Path(f"{_database_file(uri)}.lock") if uri.startswith(_SQLITE) else None


def _database_file(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE))


def _user_tag() -> dict[str, str]:
    return {"mlflow.user": os.environ.get("USER") or str(os.getuid()), "mlflow.source.name": "hierlm"}


def _quoted(value: str) -> str:
    assert "'" not in value, f"tags that are searched for are names and uuids, not {value!r}"
    return value


def _batches(items: Sequence[Any], *, size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def experiments(uri: str) -> list[str]:
    """Names of the experiments that hold runs of ours or anyone's."""
    return [found.name for found in _connected(uri, artifact_root=None).search_experiments() if found.name != "Default"]


def runs_at_tracker(uri: str, *, experiment: str) -> list[TrackedRun]:
    """Every live run of ours in an experiment, oldest first; none when there is no such experiment."""
    client = _connected(uri, artifact_root=None)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    runs = _search(client, found.experiment_id, "tags.`hierlm.part` = 'run'")
    return [_tracked_run(client, run, uri=uri) for run in runs]


def _tracked_run(client: MlflowClient, run: Run, *, uri: str) -> TrackedRun:
    run_id = run.info.run_id
    phases = _search(client, run.info.experiment_id, f"tags.`{_PARENT_TAG}` = '{run_id}'")
    phase_of_step = {
        point.step: phase.data.tags.get("hierlm.phase", "")
        for phase in phases
        for point in client.get_metric_history(phase.info.run_id, "train/loss")
    }
    return TrackedRun(
        name=run.info.run_name,
        source=f"{uri} {run_id}",
        config=dict(run.data.params),
        records=_records(client, run, phase_of_step=phase_of_step),
        summary=_artifact_text(client, run_id, "summary.json"),
    )


def _records(client: MlflowClient, run: Run, *, phase_of_step: Mapping[int, str]) -> list[dict[str, Any]]:
    """The histories of all metrics, put together again as the records they came from."""
    records: dict[tuple[int, str], dict[str, Any]] = {}
    for name in run.data.metrics:
        prefix, field = metric_names.stream_and_field(name)
        for point in client.get_metric_history(run.info.run_id, name):
            start = {
                **metric_names.of_stream(prefix),
                metric_names.STEP: point.step,
                metric_names.TIME: point.timestamp / 1000,
            }
            record = records.setdefault((point.step, prefix), start)
            record[field] = point.value
            if point.step in phase_of_step:
                record[metric_names.PHASE] = phase_of_step[point.step]
    return sorted(
        records.values(),
        key=lambda record: (record[metric_names.STEP], record[metric_names.KIND] != metric_names.TRAIN),
    )


def _artifact_text(client: MlflowClient, run_id: str, name: str) -> str | None:
    if name not in [artifact.path for artifact in client.list_artifacts(run_id)]:
        return None
    with TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, dst_path=folder)).read_text()


def _search(client: MlflowClient, experiment_id: str, wanted: str) -> list[Run]:
    """All pages of a search, oldest first."""
    runs: list[Run] = []
    token = None
    while True:
        found = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"], page_token=token)
        runs += found
        token = found.token
        if not token:
            return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))
