"""From OptimConfig to a torch optimizer; the learning rate is set before every step from the Timeline."""

from collections.abc import Mapping

import torch
from torch import nn

from hierlm.nn.parameter_kinds import Kind
from hierlm.optim.config import OptimConfig
from hierlm.optim.param_groups import param_groups
from hierlm.optim.phased_adamw import PhasedAdamW
from hierlm.phases.trainable import TrainedIn


def build_optimizer(
    config: OptimConfig,
    model: nn.Module,
    *,
    kinds: Mapping[str, Kind],
    trained_in: Mapping[str, TrainedIn] | None = None,
) -> PhasedAdamW:
    """AdamW in its fused form, which on CPU and CUDA updates all of a group in one kernel.

    `kinds` says of each parameter, by name, what it is, and `trained_in` which phases train it; by default all do.
    """
    return PhasedAdamW(
        param_groups(model.named_parameters(), kinds=kinds, weight_decay=config.weight_decay, trained_in=trained_in),
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def reset_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Forget all moments and step counts, in place, so that whoever holds the tensors sees it."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
