"""DeepSpeed before 0.19.8 follows a gradient that is not finite, or dies of it, at every ZeRO stage but bf16's second.

There each optimizer is made to look at its gradients first, and to take the way out that it has for fp16.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from hierlm.parallel.groups import Groups
from hierlm.parallel.seams.optimizers import Bf16Optimizer, Stage3Optimizer, Stage12Optimizer, ZeroOptimizer


def make_skip(optimizer: ZeroOptimizer, groups: Groups) -> None:
    """Let a ZeRO optimizer set `overflow`, the same on all ranks, and update nothing where it is true."""
    if isinstance(optimizer, Bf16Optimizer):
        optimizer.step = _looking_first(optimizer, optimizer.step, groups)
    elif isinstance(optimizer, Stage3Optimizer):  # it looks in fp16 only
        updated = optimizer.overflow_check

        def checked() -> Any:
            optimizer.check_overflow()
            return updated()

        optimizer.overflow_check = checked
    elif isinstance(optimizer, Stage12Optimizer):
        optimizer.check_grad_overflow = True


def _looking_first(optimizer: Bf16Optimizer, step: Callable[[], None], groups: Groups) -> Callable[..., None]:
    def step_if_finite(closure: None = None) -> None:
        is_lost = ~torch.stack([part.isfinite().all() for part in optimizer.gradient_parts]).all()
        lost_anywhere = is_lost.to(torch.uint8)
        for group in (groups.data, groups.model):  # each data-parallel rank has the sum of its own partition alone
            dist.all_reduce(lost_anywhere, op=dist.ReduceOp.MAX, group=group)
        optimizer.overflow = bool(lost_anywhere)
        if optimizer.overflow:
            optimizer.clear_hp_grads()
            optimizer.clear_lp_grads()
        else:
            step()

    return step_if_finite
