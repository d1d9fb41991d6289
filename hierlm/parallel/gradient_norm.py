"""The global norm of the gradient where DeepSpeed keeps none: fp32 without ZeRO."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierlm.parallel.groups import Groups


def clip_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float, groups: Groups) -> Tensor:
    """Scale gradients in place so that the norm of the whole model's is at most `max_norm`; the norm before that.

    Weights that several ranks hold are counted once: replicated ones on tp_rank 0, tied ones where their owner lives.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    squares = [p.grad.detach().float().square().sum() for p in with_gradient if _counts_here(p, groups)]
    total = torch.stack(squares).sum() if squares else torch.zeros((), device=with_gradient[0].device)
    dist.all_reduce(total, group=groups.model)
    norm = total.sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in with_gradient:
        parameter.grad.mul_(factor.to(parameter.grad.dtype))
    return norm


def _counts_here(parameter: nn.Parameter, groups: Groups) -> bool:
    is_slice = getattr(parameter, "tensor_model_parallel", False)
    return (is_slice or groups.tp_rank == 0) and not getattr(parameter, "ds_pipe_replicated", False)
