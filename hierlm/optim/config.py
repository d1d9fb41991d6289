"""What a user writes about the optimizer."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from hierlm.strict import Strict


class OptimConfig(Strict):
    """AdamW (Loshchilov & Hutter, 1711.05101).

    Weight decay reaches matrices and embeddings, not vectors: biases (u and v among them), norm gains, null groups.
    """

    name: Literal["adamw"] = "adamw"
    weight_decay: NonNegativeFloat = 0.1
    betas: tuple[float, float] = Field(default=(0.9, 0.95))
    eps: PositiveFloat = 1e-8
    gradient_clip: NonNegativeFloat = Field(default=1.0, description="largest global norm of the gradient; 0 = off")
