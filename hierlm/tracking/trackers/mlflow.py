"""An MLflow server or database, fed from metrics.jsonl by a thread in the background."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hierlm.lease import UNFENCED, Fence
from hierlm.run_dir import RunDir
from hierlm.tracking.backend import Backend, Dataset
from hierlm.tracking.believable import moment
from hierlm.tracking.config import TrackingConfig
from hierlm.tracking.follower import FollowingTracker
from hierlm.tracking.identity import RunIdentity
from hierlm.tracking.jsonl import read_attempts
from hierlm.tracking.params import flatten
from hierlm.tracking.replay import Replay
from hierlm.tracking.state import run_uuid
from hierlm.tracking.tracker import FollowedRun

_SQLITE = "sqlite:///"
ARTIFACTS = "mlflow-artifacts"


def open_tracker(run: FollowedRun) -> FollowingTracker:
    """Start following `metrics.jsonl` in the background; nothing is contacted yet."""
    replay = replay_of(run.config, run.run_dir, run_config=run.run_config, attempt=run.attempt, lease=run.lease)
    return FollowingTracker(replay, report=run.report)


def replay_of(
    config: TrackingConfig,
    run_dir: RunDir,
    *,
    run_config: Mapping[str, Any],
    attempt: int | None,
    lease: Fence = UNFENCED,
) -> Replay:
    """What is pending for a run directory; nothing is contacted yet."""
    uri = absolute_uri(config.uri)
    params = flatten(run_config)
    identity = RunIdentity(
        name=run_dir.name,
        uuid=run_uuid(run_dir.identity),
        uri=uri,
        params=params,
        started_ms=_started_ms(run_dir),
        attempt=attempt,
        sweep=config.sweep,
        sweep_size=config.sweep_size,
        datasets=_datasets(params),
        files=(run_dir.config, run_dir.provenance, run_dir.job_script),
    )
    return Replay(run_dir, identity=identity, connect=lambda: connect(config, run_dir, uri=uri), lease=lease)


def _started_ms(run_dir: RunDir) -> int | None:
    """When the first attempt began: a tracker that hears of the run later shows its true duration all the same."""
    starts = [moment(record) for record in read_attempts(run_dir.attempts)[:1]]
    return int(starts[0].timestamp() * 1000) if starts and starts[0] else None


def connect(config: TrackingConfig, run_dir: RunDir, *, uri: str) -> Backend:
    """Slow: imports MLflow. Raises what MLflow raises."""
    from hierlm.tracking.mlflow import MlflowBackend

    beside = Path(uri.removeprefix(_SQLITE)).parent if uri.startswith(_SQLITE) else run_dir.path.parent
    return MlflowBackend(uri, experiment=config.experiment, artifact_root=beside / ARTIFACTS)


def absolute_uri(uri: str) -> str:
    """A relative sqlite file is relative to the current directory."""
    return _SQLITE + str(Path(uri.removeprefix(_SQLITE)).absolute()) if uri.startswith(_SQLITE) else uri


def _datasets(params: Mapping[str, str]) -> tuple[Dataset, ...]:
    """The prepared datasets a config names, as far as they are here: directory name and digest of dataset.json."""
    names = [key for key in params if key == "data.path" or (key.startswith("data.sources.") and key.endswith(".path"))]
    found = [(params[key], Path(params[key]) / "dataset.json") for key in names]
    return tuple(_dataset(source, index) for source, index in found if index.is_file())


def _dataset(source: str, index: Path) -> Dataset:
    content = index.read_bytes()
    described = json.loads(content)
    counts = {key: value for key, value in described.items() if isinstance(value, int | str)}
    return Dataset(
        name=Path(source).name,
        digest=hashlib.sha256(content).hexdigest()[:32],
        source=json.dumps({"uri": source}),
        profile=json.dumps(counts),
    )
