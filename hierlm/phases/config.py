"""What a user writes about time: durations, learning-rate curves, phases."""

import re
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


class LearningRateConfig(Strict):
    """A curve that starts at the phase that declares it and spans every later phase that does not declare its own."""

    peak: PositiveFloat
    warmup: Duration = Duration(steps=0)
    decay: Literal["cosine", "cosine_from_start", "linear", "constant", "inverse_sqrt"] = Field(
        default="cosine", description="cosine_from_start counts the warm-up's steps too, as Transformer-XL's code does"
    )
    final: NonNegativeFloat = Field(default=0.0, description="reached at the end of the span (not for inverse_sqrt)")


class PhaseConfig(Strict):
    """One stretch of the timeline; in YAML every field of a later phase defaults to the one before it."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    duration: Duration
    sequence_length: PositiveInt = Field(description="tokens per row")
    global_batch_size: PositiveInt = Field(description="sequences per optimizer step, over all ranks")
    learning_rate: LearningRateConfig
    restarts_learning_rate: bool = Field(
        default=True, description="set by the loader: this phase declares its own curve"
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
