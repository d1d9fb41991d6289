"""Lion: the sign of an interpolated momentum (Chen et al. 2023, 2302.06675, algorithm 2).

    u = sign(b1 m + (1 - b1) g)      w <- w - lr (u + weight_decay w)      m <- b2 m + (1 - b2) g

Every weight moves by the rate, whatever the size of its gradient: the paper takes rates 3 to 10 times smaller than
AdamW's, and a decay larger by the same factor.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from hierlm.optim.config import OptimConfig

if TYPE_CHECKING:
    from torch.optim import Optimizer

STATES = ("exp_avg",)
COUNTS = ()
TEMPORARIES = 1
"""What an update makes beside each weight: its direction."""

Beta = Annotated[float, Field(ge=0, lt=1)]


class Config(OptimConfig):
    """One moment, of which the update sees another mixture than is kept."""

    name: Literal["lion"] = "lion"
    betas: tuple[Beta, Beta] = Field(
        default=(0.9, 0.99), description="how much of the moment the update sees, and how much of it a step keeps"
    )


def build(groups: list[dict[str, Any]], config: Config) -> "Optimizer":
    """Elementwise, so a flat stretch of many parameters is updated as each of them alone would be."""
    import torch

    class Lion(torch.optim.Optimizer):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            assert closure is None
            for group in self.param_groups:
                with_gradient = [p for p in group["params"] if p.grad is not None]
                if with_gradient:
                    self._update(with_gradient, lr=group["lr"], weight_decay=group["weight_decay"])

        @torch.no_grad()
        def _update(self, parameters: list[torch.Tensor], *, lr: float, weight_decay: float) -> None:
            gradients = [p.grad for p in parameters if p.grad is not None]
            moments = [self._moment(p) for p in parameters]
            seen, kept = config.betas
            updates = torch._foreach_mul(moments, seen)
            torch._foreach_add_(updates, gradients, alpha=1 - seen)
            torch._foreach_sign_(updates)
            torch._foreach_mul_(parameters, 1 - lr * weight_decay)
            torch._foreach_add_(parameters, updates, alpha=-lr)
            torch._foreach_mul_(moments, kept)
            torch._foreach_add_(moments, gradients, alpha=1 - kept)

        def _moment(self, parameter: torch.Tensor) -> torch.Tensor:
            state = self.state[parameter]
            if "exp_avg" not in state:
                state["exp_avg"] = torch.zeros_like(parameter)
            moment: torch.Tensor = state["exp_avg"]
            return moment

    return Lion(groups, {"lr": 0.0, "weight_decay": config.weight_decay})
