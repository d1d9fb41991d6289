"""Learning-rate curves as pure functions of the step inside their span."""

import math

from hierlm.phases.config import LearningRateConfig


def learning_rate(curve: LearningRateConfig, *, step: int, span_steps: int, warmup_steps: int) -> float:
    """The rate used by the update that follows `step` completed updates of a span of `span_steps`.

    Linear warm-up reaches the peak at its last step; the decay reaches `final` at the last step of the span. It begins
    at the peak, but for `cosine_from_start`, which has come some way by the end of the warm-up.
    """
    if step < warmup_steps:
        return curve.peak * (step + 1) / warmup_steps
    if curve.decay == "constant":
        return curve.peak
    if curve.decay == "inverse_sqrt":
        return curve.peak * math.sqrt(max(warmup_steps, 1) / max(step + 1, warmup_steps, 1))
    first = 0 if curve.decay == "cosine_from_start" else warmup_steps
    progress = min((step - first) / max(span_steps - 1 - first, 1), 1.0)
    shape = 1 - progress if curve.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return curve.final_rate + (curve.peak - curve.final_rate) * shape
