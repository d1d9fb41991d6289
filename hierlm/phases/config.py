"""What a user writes about time: durations, learning-rate curves, phases."""

import re
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from hierlm.strict import Strict


class Duration(Strict):
    """A length of training with its unit: `{steps: 200}` or `{tokens: 1000000}`, exactly one of them."""

    steps: int | None = Field(default=None, ge=0, description="optimizer steps")
    tokens: int | None = Field(default=None, ge=0, description="training tokens, over all ranks")

    @model_validator(mode="after")
    def exactly_one_unit(self) -> "Duration":
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("a duration has exactly one unit: {steps: N} or {tokens: N}")
        return self

    def in_steps(self, *, tokens_per_step: int) -> int:
        """Whole optimizer steps; a token count is rounded up so that it is reached."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // tokens_per_step)


DEFAULT_DECAY = "cosine"


class LearningRateConfig(Strict):
    """A curve that starts at the phase that declares it and spans every later phase that does not declare its own.

    Its end is a rate, `final: 1.0e-4`, or a share of the peak, `final_fraction: 0.1`, which keeps its shape when only
    the peak is changed; neither: 0.
    """

    peak: PositiveFloat
    warmup: Duration = Duration(steps=0)
    decay: str = Field(
        default=DEFAULT_DECAY,
        description="a file of hierlm/phases/schedules, which may have fields of its own: what follows the warm-up",
    )
    final: NonNegativeFloat | None = Field(
        default=None, description="rate at the end of the span (of cosines and linear), at most the peak; null: 0"
    )
    final_fraction: float | None = Field(
        default=None, ge=0, le=1, description="the same as a share of the peak; in place of `final`"
    )

    @model_validator(mode="after")
    def one_end(self) -> "LearningRateConfig":
        if self.final is not None and self.final_fraction is not None:
            raise ValueError("a curve has one end: give `final` or `final_fraction`, one of them")
        return self

    @property
    def final_rate(self) -> float:
        """What the decay comes to.

        A share is taken in decimals, as it is written: 0.1 of 3.0e-3 is 3.0e-4 and no neighbouring number.
        """
        if self.final_fraction is None:
            return self.final or 0.0
        return float(Decimal(repr(self.peak)) * Decimal(repr(self.final_fraction)))


class PhaseConfig(Strict):
    """One stretch of the timeline; in YAML every field of a later phase defaults to the one before it.

    Of a `learning_rate` that is named nothing is inherited: it is a curve of its own.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    duration: Duration
    sequence_length: PositiveInt = Field(description="tokens per row")
    global_batch_size: PositiveInt = Field(description="sequences per optimizer step, over all ranks")
    learning_rate: LearningRateConfig
    restarts_learning_rate: bool = Field(
        default=True, description="set by the loader: this phase names a learning_rate, and so begins a new curve"
    )
    model: dict[str, Any] = Field(default_factory=dict, description="train-time switches of the architecture")
    optimizer_state: Literal["keep", "reset"] = "keep"
    trainable: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="regular expressions for whole names of the parameters, or modules, this phase trains; null: all",
    )
    data_weights: tuple[NonNegativeFloat, ...] | None = Field(
        default=None, description="weight of each of data.sources, in their order; null: the sources' own weights"
    )

    @field_validator("trainable")
    @classmethod
    def patterns_are_regular_expressions(cls, patterns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for pattern in patterns or ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return patterns

    @property
    def tokens_per_step(self) -> int:
        return self.sequence_length * self.global_batch_size

    @property
    def num_steps(self) -> int:
        return self.duration.in_steps(tokens_per_step=self.tokens_per_step)
