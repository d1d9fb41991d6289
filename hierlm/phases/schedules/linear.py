"""A straight line from the peak to the final rate."""

from hierlm.phases.config import LearningRateConfig
from hierlm.phases.schedules import Progress


def rate(curve: LearningRateConfig, progress: Progress) -> float:
    """Of an update behind the warm-up."""
    return curve.final_rate + (curve.peak - curve.final_rate) * (1 - progress.since_warmup)
