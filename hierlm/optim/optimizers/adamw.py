"""AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, 1711.05101)."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from hierlm.optim.config import OptimConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer

STATES = ("exp_avg", "exp_avg_sq")
COUNTS = ("step",)

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Below 1: the bias correction divides by 1 - beta^t."""


class Config(OptimConfig):
    """Two moments, bias correction, decay apart from the gradient."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.95), description="how much of each moment a step keeps")
    eps: PositiveFloat = 1e-8


def build(groups: list[dict[str, Any]], config: Config) -> "Optimizer":
    """In its fused form, which on CPU and CUDA updates all of a group in one kernel."""
    from torch.optim import AdamW

    return AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
