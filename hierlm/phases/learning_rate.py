"""Learning-rate curves as pure functions of the step inside their span."""

import math

from hierlm.phases.config import LearningRateConfig


def learning_rate(curve: LearningRateConfig, *, step: int, span_steps: int, warmup_steps: int) -> float:
    """The rate used by the update that follows `step` completed updates of a span of `span_steps`.

    Linear warm-up reaches the peak at its last step; the decay reaches `final` at the last step of the span.
    """
    if step < warmup_steps:
        return curve.peak * (step + 1) / warmup_steps
    if curve.decay == "constant":
        return curve.peak
    if curve.decay == "inverse_sqrt":
        return curve.peak * math.sqrt(max(warmup_steps, 1) / max(step + 1, warmup_steps, 1))
    remaining = max(span_steps - 1 - warmup_steps, 1)
    progress = min((step - warmup_steps) / remaining, 1.0)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if curve.decay == "cosine" else 1 - progress
    return curve.final + (curve.peak - curve.final) * shape
