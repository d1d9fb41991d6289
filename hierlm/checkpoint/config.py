"""What a user writes about checkpoints."""

from pydantic import Field, PositiveInt

from hierlm.phases.config import Duration
from hierlm.strict import Strict


class CheckpointConfig(Strict):
    """One checkpoint is always written at the end and on a stop request, whatever `every` says."""

    every: Duration = Duration(steps=1000)
    keep: PositiveInt = Field(default=2, description="newest checkpoints kept; older ones are removed")
