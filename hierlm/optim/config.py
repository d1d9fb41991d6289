"""What a user writes about the optimizer. Each one has more fields, in `hierlm/optim/optimizers/<name>.py`."""

import re

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from hierlm.strict import Strict


class ParameterRule(Strict):
    """Another learning rate or weight decay for some parameters; an architecture may have some too (`PARAM_RULES`).

    Where several rules speak of one parameter, the last one that says anything of its rate, or of its decay, decides.
    """

    parameters: str = Field(description="regular expression for whole names of parameters, or of modules around them")
    learning_rate_factor: NonNegativeFloat | None = Field(default=None, description="times the phase's rate")
    learning_rate: NonNegativeFloat | None = Field(
        default=None,
        description="constant: without warm-up and decay, in every phase (but 0 where that is 0); not with a factor",
    )
    weight_decay: NonNegativeFloat | None = Field(default=None, description="null: as without this rule")

    @field_validator("parameters")
    @classmethod
    def is_a_regular_expression(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def says_something(self) -> "ParameterRule":
        if self.learning_rate_factor is not None and self.learning_rate is not None:
            raise ValueError("a rule gives `learning_rate_factor` or `learning_rate`, one of them")
        if self.learning_rate_factor is None and self.learning_rate is None and self.weight_decay is None:
            raise ValueError("a rule gives `learning_rate_factor`, `learning_rate` or `weight_decay`")
        return self


class OptimConfig(Strict):
    """What every optimizer's Config has in common; `name` is the file name.

    Weight decay reaches matrices and embeddings, not vectors: biases (u and v among them), norm gains, null groups.
    """

    name: str = Field(description="a file of hierlm/optim/optimizers")
    weight_decay: NonNegativeFloat = 0.1
    gradient_clip: NonNegativeFloat = Field(default=1.0, description="largest global norm of the gradient; 0 = off")
    rules: tuple[ParameterRule, ...] = Field(default=(), description="other rates and decays for some parameters")
