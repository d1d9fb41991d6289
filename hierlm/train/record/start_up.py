"""Where the time before an attempt's first step went: told on the console, kept in metrics.jsonl."""

from time import perf_counter
from typing import TYPE_CHECKING, Any

from hierlm.metric_names import KIND, START_UP, STEP

if TYPE_CHECKING:
    from hierlm.train.loop import Completed
    from hierlm.train.record.console import Console
    from hierlm.train.record.recorder import Recorder

_WORTH_TELLING_SECONDS = 0.05


class StartUp:
    """A clock that begins now; `done` gives the time since the last call, or since the beginning, to a part."""

    def __init__(self) -> None:
        self._began = self._last = perf_counter()
        self._seconds: dict[str, float] = {}

    def done(self, part: str) -> None:
        """What has happened since the last call is `part`; one named twice has both times."""
        now = perf_counter()
        self._seconds[part] = self._seconds.get(part, 0.0) + now - self._last
        self._last = now

    @property
    def total_seconds(self) -> float:
        """Of all parts so far."""
        return self._last - self._began

    @property
    def description(self) -> str:
        """`6.1 s: imports 2.9, process group 0.3, model and engine 1.9`; parts that took no time are left out."""
        parts = [f"{part} {took:.1f}" for part, took in self._seconds.items() if took >= _WORTH_TELLING_SECONDS]
        return f"{self.total_seconds:.1f} s" + (f": {', '.join(parts)}" if parts else "")

    def record(self) -> dict[str, float]:
        """Seconds of every part and of all together, by field name."""
        parts = {f"{part.replace(' ', '_')}_seconds": took for part, took in self._seconds.items()}
        return {"start_up_seconds": self.total_seconds, **parts}


class StartUpHook:
    """Ends the clock after the attempt's first step."""

    def __init__(self, start_up: StartUp, *, recorder: "Recorder", console: "Console") -> None:
        self._start_up: StartUp | None = start_up
        self._recorder, self._console = recorder, console

    def before_step(self) -> None:
        """The clock runs."""

    def after_step(self, completed: "Completed") -> None:
        start_up, self._start_up = self._start_up, None
        if start_up is None:
            return
        completed.result.loss.item()  # a device may still be at it
        start_up.done("first step")
        record: dict[str, Any] = {KIND: START_UP, STEP: completed.step, **start_up.record()}
        self._recorder.record(record)
        self._console.say(f"first step after {start_up.description}")

    def on_stop(self, *, step: int) -> None:
        """No step was made, or the clock has ended."""
