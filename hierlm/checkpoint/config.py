"""What a user writes about checkpoints."""

from typing import Literal

from pydantic import Field, PositiveInt

from hierlm.phases.config import Duration
from hierlm.strict import Strict


class KeepEvery(Strict):
    """A cadence in steps."""

    steps: PositiveInt


class CheckpointConfig(Strict):
    """One checkpoint is always written at the end and on a stop request, whatever `every` says.

    The last one of each phase and the newest that was written at the end or on a stop request stay besides `keep`.
    """

    every: Duration = Duration(steps=1000)
    keep: PositiveInt = Field(default=2, description="newest checkpoints kept; older ones are removed")
    keep_every: KeepEvery | None = Field(default=None, description="written and kept for ever, besides `keep`")
    asynchronous: bool = Field(
        default=False, description="train on while a copy in host memory is written; takes that memory"
    )
    conversion_memory_bytes: int = Field(
        default=2**28, ge=2**20, description="of tensors, in each process that converts a checkpoint to another layout"
    )
    unproven: Literal["refuse", "accept"] = Field(
        default="refuse",
        description="a checkpoint that, loaded, answers otherwise than when it was saved: `accept` says so and goes on",
    )
