"""A cosine that counts the warm-up too, as Transformer-XL's code does (1901.02860): it begins below the peak."""

from hierlm.phases.config import LearningRateConfig
from hierlm.phases.schedules import Progress
from hierlm.phases.schedules.cosine import half_period


def rate(curve: LearningRateConfig, progress: Progress) -> float:
    """Of an update behind the warm-up."""
    return half_period(curve, progress.since_start)
