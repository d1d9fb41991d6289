"""Warm-up, stable, decay (Hägele et al. 2024, 2405.18392): the peak until a cool-down over the last part of the span.

A run may be made longer from a checkpoint before its cool-down, and cooled down from there again. The paper finds that
a cool-down of a fifth of the steps along 1 - sqrt does as well as a cosine over all of them, and better than a line.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from hierlm.phases.config import LearningRateConfig
from hierlm.phases.schedules import Progress


class Config(LearningRateConfig):
    """The fields of the cool-down; it ends at the final rate with the span's last update."""

    decay: Literal["wsd"] = "wsd"
    cooldown_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="of the span, warm-up included, the last part: the cool-down; never before the warm-up"
    )
    cooldown: Literal["one_minus_sqrt", "linear"] = Field(
        default="one_minus_sqrt", description="one_minus_sqrt: 1 - sqrt of the share of the cool-down that is behind"
    )


def rate(curve: Config, progress: Progress) -> float:
    """Of an update behind the warm-up: the paper's equation 2."""
    begins = max(1 - curve.cooldown_fraction, progress.warmup_end)
    if progress.since_start <= begins:
        return curve.peak
    done = (progress.since_start - begins) / (1 - begins)
    left = 1 - (math.sqrt(done) if curve.cooldown == "one_minus_sqrt" else done)
    return curve.final_rate + (curve.peak - curve.final_rate) * left
