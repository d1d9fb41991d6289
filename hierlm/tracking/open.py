"""The tracker a config asks for."""

from collections.abc import Callable, Mapping

from hierlm.discovery import module_named
from hierlm.lease import UNFENCED, Fence
from hierlm.plugins import PACKAGES
from hierlm.run_dir import RunDir
from hierlm.tracking.config import TrackingConfig
from hierlm.tracking.tracker import FollowedRun, Tracker


def open_tracker(
    config: TrackingConfig,
    run_dir: RunDir,
    *,
    run_config_flat: Mapping[str, object],
    attempt: int,
    report: Callable[[str], None],
    lease: Fence = UNFENCED,
) -> Tracker:
    """Open it after records to be made again were removed from `run_dir.metrics`.

    `run_config_flat` may be nested. `report` gets one line when the tracker goes away or comes back. Nothing is sent
    any more when another attempt has taken the run over.
    """
    run = FollowedRun(config, run_dir, run_config=run_config_flat, attempt=attempt, report=report, lease=lease)
    tracker: Tracker = module_named(config.chosen_kind, package=PACKAGES["tracker"]).open_tracker(run)
    return tracker
