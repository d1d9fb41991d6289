"""Tracking is off: metrics.jsonl alone keeps the numbers."""

from collections.abc import Mapping
from typing import Any

from hierlm.tracking.tracker import FinalState, FollowedRun


class NoTracker:
    """Does nothing."""

    def metrics(self, values: Mapping[str, Any], *, step: int) -> None: ...
    def finish(self, state: FinalState | None) -> None: ...


def open_tracker(run: FollowedRun) -> NoTracker:
    """The same for every run."""
    return NoTracker()
