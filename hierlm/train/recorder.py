"""Where every record of a run goes: metrics.jsonl first, then the tracker. Only the writer rank holds files."""

from collections.abc import Mapping
from typing import Any

from hierlm.tracking.jsonl import MetricsFile
from hierlm.tracking.tracker import Tracker


class Recorder:
    """One on every rank; without files (`None`) it records nothing."""

    def __init__(self, *, metrics: MetricsFile | None, tracker: Tracker | None) -> None:
        self._metrics, self._tracker = metrics, tracker

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one record, durable before the tracker hears of it."""
        if self._metrics is not None:
            self._metrics.write(record)
        if self._tracker is not None:
            self._tracker.metrics(record, step=int(record["step"]))
