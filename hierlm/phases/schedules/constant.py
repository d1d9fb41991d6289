"""The peak, to the end."""

from hierlm.phases.config import LearningRateConfig
from hierlm.phases.schedules import Progress


def rate(curve: LearningRateConfig, progress: Progress) -> float:
    """Of an update behind the warm-up."""
    return curve.peak
