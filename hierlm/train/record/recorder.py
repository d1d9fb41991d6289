"""Where every record of a run goes: metrics.jsonl first, then the tracker. Only the writer rank holds files."""

from collections.abc import Mapping
from typing import Any

from hierlm.lease import TakenOverError
from hierlm.tracking.jsonl import MetricsFile
from hierlm.tracking.tracker import FinalState, Tracker


class Recorder:
    """One on every rank; it records nothing until `open`, which only the writer rank calls."""

    def __init__(self) -> None:
        self._metrics: MetricsFile | None = None
        self._tracker: Tracker | None = None

    def open(self, metrics: MetricsFile, tracker: Tracker) -> None:
        """Take the files of this attempt, records to be made again already removed."""
        self._metrics, self._tracker = metrics, tracker

    def finish(self, state: FinalState | None) -> None:
        """Flush everything and set the run's state at the tracker."""
        if self._tracker is not None:
            self._tracker.finish(state)
        if self._metrics is not None:
            self._metrics.close()

    def record(self, record: Mapping[str, Any]) -> None:
        """Append one record, durable before the tracker hears of it; nothing when another attempt has taken over."""
        try:
            if self._metrics is not None:
                self._metrics.write(record)
        except TakenOverError:
            return  # all ranks learn of it together, from StopRequest.agreed: an error here would be this rank's only
        if self._tracker is not None:
            self._tracker.metrics(record, step=int(record["step"]))
