"""Learning-rate curves as pure functions of the step inside their span."""

import math

from hierlm.phases.span import Span


class Curve:
    """The rate of every update of a span, as the first of its phases declares it.

    A warm-up is a straight line in its own unit, steps or tokens; the update that completes it has the peak. What is
    left of the span is the decay's: it comes to the final rate at the span's last update, and runs in tokens where the
    warm-up or the duration of a phase is written in tokens, else in steps. (The two differ only where the tokens of a
    step change within the span.) It begins at the peak, but for `cosine_from_start`, which has come some way
    by the end of the warm-up.
    """

    def __init__(self, span: Span) -> None:
        self._config, self._span = span.phases[0].learning_rate, span
        warmup = self._config.warmup
        self._warmup_steps = span.steps_until(warmup.tokens) if warmup.tokens is not None else warmup.steps or 0
        lengths = (warmup, *(phase.duration for phase in span.phases))
        self._decays_in_tokens = any(length.tokens is not None for length in lengths)

    def rate(self, step: int) -> float:
        """The rate of the update that follows `step` completed updates of the span."""
        peak, final = self._config.peak, self._config.final_rate
        done, length = self._along_warmup(step)
        if step < self._warmup_steps:
            return peak * min(done, length) / length
        if self._config.decay == "constant":
            return peak
        if self._config.decay == "inverse_sqrt":
            return peak * math.sqrt(length / max(done, length))
        progress = self._progress(step)
        shape = 1 - progress if self._config.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return final + (peak - final) * shape

    def _along_warmup(self, step: int) -> tuple[int, int]:
        """(where this update ends, how long the warm-up is) in the warm-up's unit; without one it is a step long."""
        warmup = self._config.warmup
        if warmup.tokens:
            return self._span.tokens_after(step + 1), warmup.tokens
        return step + 1, max(self._warmup_steps, 1)

    def _progress(self, step: int) -> float:
        """Where this update begins between the decay's first one, 0, and the last of the span, 1."""
        begins = 0 if self._config.decay == "cosine_from_start" else self._warmup_steps
        places = (begins, step, self._span.num_steps - 1)
        first, here, last = map(self._span.tokens_after, places) if self._decays_in_tokens else places
        return min((here - first) / max(last - first, 1), 1.0)
