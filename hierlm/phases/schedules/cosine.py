"""Half a period of a cosine from the peak to the final rate (Loshchilov & Hutter, 1608.03983, without restarts)."""

import math

from hierlm.phases.config import LearningRateConfig
from hierlm.phases.schedules import Progress


def rate(curve: LearningRateConfig, progress: Progress) -> float:
    """Of an update behind the warm-up."""
    return half_period(curve, progress.since_warmup)


def half_period(curve: LearningRateConfig, done: float) -> float:
    """The rate where a share `done` of the half period is behind."""
    return curve.final_rate + (curve.peak - curve.final_rate) * (0.5 * (1 + math.cos(math.pi * done)))
