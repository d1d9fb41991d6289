"""What a user writes about the training loop."""

from typing import Literal

from pydantic import Field, PositiveInt

from hierlm.phases.config import Duration
from hierlm.strict import Strict


class TrainConfig(Strict):
    """Precision, cadence of logging and evaluation, determinism."""

    precision: Literal["fp32", "bf16"] = "bf16"
    log_every: Duration = Duration(steps=10)
    eval_every: Duration | None = Field(default=None, description="besides the evaluation at the end of the run")
    eval_rows: PositiveInt | None = Field(default=None, description="rows of the valid split; default: all of it")
    deterministic: bool = True
