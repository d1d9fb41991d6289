"""Stochastic gradient descent with momentum, after Sutskever et al. 2013 (Nesterov's form is a switch).

Weight decay is added to the gradient, so it passes through the momentum: the L2 penalty of the early literature.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from hierlm.optim.config import OptimConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer

STATES = ("momentum_buffer",)
COUNTS = ()
TEMPORARIES = 1
"""What an update makes beside each weight, where torch updates all at once: the gradient with the decay."""


class Config(OptimConfig):
    """A running sum of gradients, one tensor of state."""

    name: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.9, description="of the sum, what a step keeps")
    nesterov: bool = Field(default=False, description="look at the gradient from where the momentum leads")


def build(groups: list[dict[str, Any]], config: Config) -> "Optimizer":
    """Not fused: a first step that is left out would leave torch's fused form with a momentum of chance."""
    from torch.optim import SGD

    return SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov)
