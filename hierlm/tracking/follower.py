"""A background thread that pushes a replay along, and a tracker made of it."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from hierlm.tracking.backend import Status
from hierlm.tracking.replay import Replay, reason
from hierlm.tracking.tracker import FinalState


class FollowingTracker:
    """Follows metrics.jsonl. The training thread only sets flags here; all work, imports included, is the other's.

    `report` is called from the other thread with one line when the tracker goes away and when it is back.
    """

    def __init__(
        self,
        replay: Replay,
        *,
        report: Callable[[str], None],
        interval_seconds: float = 5.0,
        longest_pause_seconds: float = 60.0,
    ) -> None:
        self._replay, self._report = replay, report
        self._interval, self._longest_pause = interval_seconds, longest_pause_seconds
        self._wake, self._closing, self._flushed = threading.Event(), threading.Event(), threading.Event()
        self._failures, self._unsent_since, self._artifact_problem = 0, 0.0, ""
        self._address = ""
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
        self._thread.start()

    def metrics(self, values: Mapping[str, Any], *, step: int) -> None:
        """Nothing to do: the thread looks at the file every few seconds."""

    def finish(self, state: FinalState | None) -> None:
        """Waits two minutes at the end of a run, and only seconds when the process was told to stop; what could not be
        sent by then stays in the run directory for the next attempt, or for `hierlm track sync`."""
        status: Status = state or "SCHEDULED"
        self._quietly(lambda: self._replay.want_status(status))
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout=120.0 if state == "FINISHED" else 10.0)
        if not self._flushed.is_set():
            self._report("tracker: not everything could be sent; `hierlm track sync` sends the rest from metrics.jsonl")

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()
            if self._push() and closing:
                self._flushed.set()
            if closing and (self._flushed.is_set() or self._failures > 1):
                break
            self._wake.wait(timeout=self._pause())
            self._wake.clear()
        self._quietly(self._replay.close)

    def _pause(self) -> float:
        """Seconds to the next push: regular, or doubling while the tracker is away."""
        if self._closing.is_set():
            return 1.0
        return min(self._interval * 2.0**self._failures, self._longest_pause) if self._failures else self._interval

    def _push(self) -> bool:
        try:
            sent = self._replay.push()
        except Exception as error:
            self._failures += 1
            if self._failures == 1:
                self._unsent_since = time.monotonic()
                self._report(f"tracker: away ({reason(error)}); training goes on, metrics.jsonl keeps everything")
            return False
        if not self._address:
            self._address = self._replay.address
            if self._address:
                self._report(f"tracker: {self._address}")
        self._report_artifacts()
        if self._failures:
            away = time.monotonic() - self._unsent_since
            self._report(f"tracker: back after {away:.0f} s; {sent} records sent")
        self._failures = 0
        return True

    def _report_artifacts(self) -> None:
        problem, before = self._replay.artifact_problem, self._artifact_problem
        self._artifact_problem = problem
        if problem and problem != before:
            self._report(
                f"tracker: cannot keep files ({problem}); metrics are sent, the files stay in the run directory"
            )

    def _quietly(self, action: Callable[[], None]) -> None:
        """A tracker never raises into training."""
        try:
            action()
        except Exception as error:
            self._report(f"tracker: {reason(error)}")
