"""Learning-rate curves as pure functions of the step inside their span: a warm-up, then a file of `schedules`."""

from hierlm.phases.schedules import Progress, schedule
from hierlm.phases.span import Span


class Curve:
    """The rate of every update of a span, as the first of its phases declares it.

    A warm-up is a straight line in its own unit, steps or tokens; the update that completes it has the peak. What is
    left of the span is the schedule's: it comes to its end at the span's last update, and runs in tokens where the
    warm-up or the duration of a phase is written in tokens, else in steps. (The two differ only where the tokens of a
    step change within the span.)
    """

    def __init__(self, span: Span) -> None:
        self._config, self._span = span.phases[0].learning_rate, span
        self._schedule = schedule(self._config.decay)
        warmup = self._config.warmup
        self._warmup_steps = span.steps_until(warmup.tokens) if warmup.tokens is not None else warmup.steps or 0
        lengths = (warmup, *(phase.duration for phase in span.phases))
        self._decays_in_tokens = any(length.tokens is not None for length in lengths)

    def rate(self, step: int) -> float:
        """The rate of the update that follows `step` completed updates of the span."""
        done, length = self._along_warmup(step)
        if step < self._warmup_steps:
            return self._config.peak * min(done, length) / length
        progress = Progress(
            since_warmup=self._progress(step, since=self._warmup_steps),
            since_start=self._progress(step, since=0),
            warmup_end=self._progress(self._warmup_steps, since=0),
            warmup_share=length / max(done, length),
        )
        rate: float = self._schedule.rate(self._config, progress)
        return rate

    def _along_warmup(self, step: int) -> tuple[int, int]:
        """(where this update ends, how long the warm-up is) in the warm-up's unit; without one it is a step long."""
        warmup = self._config.warmup
        if warmup.tokens:
            return self._span.tokens_after(step + 1), warmup.tokens
        return step + 1, max(self._warmup_steps, 1)

    def _progress(self, step: int, *, since: int) -> float:
        """Where an update begins between update `since`, 0, and the last of the span, 1."""
        places = (since, step, self._span.num_steps - 1)
        first, here, last = map(self._span.tokens_after, places) if self._decays_in_tokens else places
        return min((here - first) / max(last - first, 1), 1.0)
