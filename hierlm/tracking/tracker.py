"""What the training loop needs of a tracker: four methods. Only the writer rank opens one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

FinalState = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Never raises into the training loop and never slows a step: a backend that is down is the backend's concern."""

    def metrics(self, values: Mapping[str, Any], *, step: int) -> None:
        """A record has just been written to metrics.jsonl; a tracker that follows the file only wakes up."""

    def artifact(self, path: Path) -> None:
        """Keep a file with the run; config, provenance, job script and summary are kept without asking."""

    def tag(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def finish(self, state: FinalState | None) -> None:
        """Send what can be sent soon; set the final state, or leave the run waiting for the next attempt (None)."""


class NoTracker:
    """Tracking is off: metrics.jsonl alone keeps the numbers."""

    def metrics(self, values: Mapping[str, Any], *, step: int) -> None: ...
    def artifact(self, path: Path) -> None: ...
    def tag(self, values: Mapping[str, str]) -> None: ...
    def finish(self, state: FinalState | None) -> None: ...
