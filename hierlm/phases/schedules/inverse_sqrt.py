"""The peak over the root of how many warm-ups have gone by (Vaswani et al. 2017, 1706.03762, equation 3)."""

import math

from hierlm.phases.config import LearningRateConfig
from hierlm.phases.schedules import Progress


def rate(curve: LearningRateConfig, progress: Progress) -> float:
    """Of an update behind the warm-up; the final rate plays no part."""
    return curve.peak * math.sqrt(progress.warmup_share)
