"""DeepSpeed before 0.19.8 follows a gradient that is not finite, or dies of it, at every ZeRO stage but bf16's second.

There each optimizer is made to look at its gradients first, and to take the way out that it has for fp16.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime import utils

from hierlm.parallel.groups import Groups


def skips_by_itself() -> bool:
    """Whether the installed DeepSpeed leaves out a step whose gradient norm is not finite."""
    return hasattr(utils, "is_invalid_grad_norm")


def make_skip(optimizer: Any, groups: Groups) -> None:
    """Let a ZeRO optimizer set `overflow`, the same on all ranks, and update nothing where it is true."""
    if hasattr(optimizer, "fp32_groups_gradients"):  # bf16 with fp32 accumulation
        optimizer.step = _looking_first(optimizer, optimizer.step, groups)
    elif hasattr(optimizer, "_get_norm_groups"):  # stage 3 looks in fp16 only
        updated = optimizer._overflow_check_and_loss_scale_update

        def checked() -> Any:
            optimizer.check_overflow()
            return updated()

        optimizer._overflow_check_and_loss_scale_update = checked
    else:
        optimizer.check_grad_overflow = True


def _looking_first(optimizer: Any, step: Callable[[], None], groups: Groups) -> Callable[[], None]:
    def step_if_finite() -> None:
        gradients = [gradient for group in optimizer.fp32_groups_gradients for gradient in group]
        is_lost = ~torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
        told = is_lost.to(torch.uint8)
        dist.all_reduce(told, op=dist.ReduceOp.MAX, group=groups.model)
        optimizer.overflow = bool(told)
        if optimizer.overflow:
            optimizer.clear_hp_grads()
            optimizer.clear_lp_grads()
        else:
            step()

    return step_if_finite
