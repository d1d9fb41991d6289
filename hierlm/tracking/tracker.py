"""What the training loop needs of a tracker: two methods. Only the writer rank opens one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hierlm.lease import UNFENCED, Fence
from hierlm.run_dir import RunDir
from hierlm.tracking.config import TrackingConfig

FinalState = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Never raises into the training loop and never slows a step: a backend that is down is the backend's concern."""

    def metrics(self, values: Mapping[str, Any], *, step: int) -> None:
        """A record has just been written to metrics.jsonl; a tracker that follows the file only wakes up."""

    def finish(self, state: FinalState | None) -> None:
        """Send what can be sent soon; set the final state, or leave the run waiting for the next attempt (None)."""


@dataclass(frozen=True)
class FollowedRun:
    """What a tracker is opened with."""

    config: TrackingConfig
    run_dir: RunDir
    run_config: Mapping[str, Any]  # the whole config, plain; possibly flat
    attempt: int  # counts the starts of the run from 1
    report: Callable[[str], None]  # says one line on the run's console
    lease: Fence = UNFENCED  # refuses when another attempt has taken the run over
