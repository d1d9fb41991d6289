"""What a user writes about the training loop."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from hierlm.phases.config import Duration
from hierlm.strict import Strict


class ProfileConfig(Strict):
    """Which optimizer steps are traced."""

    steps: str = Field(description="first and last of them, counted from 1: 10..12")

    @field_validator("steps")
    @classmethod
    def is_a_range(cls, text: str) -> str:
        first, between, last = text.partition("..")
        if not (between and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise ValueError("steps are written FIRST..LAST with 1 <= FIRST <= LAST, as in 10..12")
        return text

    @property
    def first(self) -> int:
        return int(self.steps.partition("..")[0])

    @property
    def last(self) -> int:
        return int(self.steps.partition("..")[2])


class TrainConfig(Strict):
    """Precision, cadence of logging and evaluation, determinism."""

    precision: Literal["fp32", "bf16"] = "bf16"
    log_every: Duration = Duration(steps=10)
    eval_every: Duration | None = Field(default=None, description="besides the evaluation at the end of the run")
    eval_rows: PositiveInt | None = Field(default=None, description="rows of the valid split; default: all of it")
    deterministic: bool = True
    hang_after_seconds: PositiveFloat | None = Field(
        default=900.0, description="without any progress on a rank the attempt ends, saying who is behind; null: never"
    )
    max_skipped_steps: PositiveInt = Field(
        default=10, description="so many steps in a row whose loss or gradient is not finite end the attempt"
    )
    loss_chunk_tokens: PositiveInt | None = Field(
        default=None,
        description="tokens whose logits are made at once, twice each, so that those of a large vocabulary never "
        "exist whole; null: all of a micro-batch",
    )
    log_gradient_norms: bool = Field(
        default=False, description="also log the gradient norm of every layer: one small message a logged step"
    )
    compile: bool = Field(
        default=False, description="torch.compile every layer: takes minutes at the start, wins on no CPU measured"
    )
    profile: ProfileConfig | None = Field(
        default=None, description="write a trace of some steps and a table of where their time goes"
    )
