"""Send what a tracker does not have yet, from anywhere that sees the run directory."""

from dataclasses import dataclass
from typing import Any

import yaml

from hierlm import yaml12
from hierlm.errors import UserError
from hierlm.run_dir import RunDir
from hierlm.tracking.backend import Status
from hierlm.tracking.config import MLFLOW, NO_TRACKER, TrackingConfig
from hierlm.tracking.jsonl import read_attempts
from hierlm.tracking.trackers.mlflow import replay_of


@dataclass(frozen=True)
class Synced:
    """What a synchronisation did."""

    run: str
    uri: str
    mlflow_run_id: str
    num_records: int
    status: Status
    artifact_problem: str  # why files could not be kept, if so


def sync(run_dir: RunDir, *, uri: str | None = None) -> Synced:
    """Everything pending, now, and the run's true status. Another `uri` than the config's starts from nothing there.

    Raises BusyError while a process follows the run, UserError when there is no tracker to send to, and whatever the
    tracker raises.
    """
    config = _config(run_dir)
    tracking = TrackingConfig.model_validate(
        {**config.get("tracking", {}), **({"uri": uri, "kind": MLFLOW} if uri else {})}
    )
    if tracking.kind != MLFLOW:
        raise UserError(f"{run_dir.path}: tracking.kind is `{tracking.kind}`; name an MLflow server with --uri")
    if tracking.uri == NO_TRACKER:
        raise UserError(f"{run_dir.path}: tracking.uri is `none`; name a server with --uri")
    replay = replay_of(tracking, run_dir, run_config=config, attempt=None)
    status = status_of(run_dir)
    try:
        num_records = replay.push()  # first: it makes sure that nobody else follows the run
        replay.want_status(status)
        replay.push()
    finally:
        replay.close()
    return Synced(run_dir.name, tracking.uri, replay.run_id, num_records, status, replay.artifact_problem)


def status_of(run_dir: RunDir) -> Status:
    """Of a run that no process follows: an attempt that left no end was killed."""
    if run_dir.finished.exists():
        return "FINISHED"
    attempts = read_attempts(run_dir.attempts)
    failed = bool(attempts) and str(attempts[-1].get("why", "")).startswith("failed")
    return "FAILED" if failed else "KILLED"


def _config(run_dir: RunDir) -> dict[str, Any]:
    if not run_dir.config.is_file():
        raise UserError(f"{run_dir.path}: not a run directory (it has no {run_dir.config.name})")
    try:
        config = yaml12.load(run_dir.config.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{run_dir.config}: unreadable ({(str(error).splitlines() or [''])[0]})") from error
    if not isinstance(config, dict):
        raise UserError(f"{run_dir.config}: not a mapping of keys to values; restore it")
    return config
