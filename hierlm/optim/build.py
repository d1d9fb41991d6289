"""From OptimConfig to a torch optimizer; the learning rate is set before every step from the Timeline."""

import torch
from torch import nn

from hierlm.optim.config import OptimConfig
from hierlm.optim.param_groups import param_groups


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW in its fused form, which on CPU and CUDA updates all of a group in one kernel."""
    return torch.optim.AdamW(
        param_groups(model.named_parameters(), weight_decay=config.weight_decay),
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
