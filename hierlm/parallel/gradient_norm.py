"""The global norm of the gradient where DeepSpeed's own will not do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierlm.parallel.groups import Groups
from hierlm.parallel.seams.optimizers import Bf16Optimizer, Stage3Optimizer, Stage12Optimizer, ZeroOptimizer
from hierlm.parallel.seams.parameters import is_copy, is_padding, is_slice, own_stretch


def clip_gradients(parameters: Iterable[nn.Parameter], *, max_norm: float, groups: Groups) -> Tensor:
    """Scale gradients in place so that the norm of the whole model's is at most `max_norm`; the norm before that.

    Not finite where any rank's gradient is not: the same on every rank.

    For fp32 without ZeRO, where DeepSpeed clips without keeping the norm and takes later stages for replicas.

    Weights that several ranks hold are counted once: replicated ones on tp_rank 0, tied ones where their owner lives.
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    # what counts elsewhere is still looked at: 0 times what is not finite is NaN
    squares = [square(p.grad) * float(counts_here(p, groups)) for p in with_gradient]
    total = torch.stack(squares).sum() if squares else torch.zeros((), device=with_gradient[0].device)
    dist.all_reduce(total, group=groups.model)
    norm = total.sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in with_gradient:
        parameter.grad.mul_(factor.to(parameter.grad.dtype))
    return norm


def partitioned_norm(optimizer: Stage12Optimizer, groups: Groups) -> Tensor:
    """The norm of gradients that a ZeRO 1 optimizer holds partitioned; -1 if not finite, as DeepSpeed has it.

    DeepSpeed reduces over the whole model once per parameter group, and hangs when a stage has fewer groups than
    another (one that holds only an embedding has no vectors); this reduces once.
    """
    total = torch.zeros((), device=optimizer.averaged_gradients[0][0].device)
    for index, parameters in enumerate(optimizer.params_in_partition):
        gradients = (g for g in optimizer.averaged_gradients[index] if not is_padding(g))
        for gradient, parameter in zip(gradients, parameters, strict=False):  # padding may be left at the end
            if counts_here(parameter, groups):
                total += square(gradient)
    for group in (groups.data, groups.model):
        dist.all_reduce(total, group=group)
    return torch.where(torch.isfinite(total), total.sqrt(), -1.0).to(optimizer.device)


def part_square(parameters: Sequence[nn.Parameter], part: Tensor, groups: Groups) -> Tensor:
    """The squared norm of this rank's partition of a parameter group's gradients, fp32 []; each weight counts once.

    Not finite where the partition is not, in what counts elsewhere too: 0 times what is not finite is NaN.
    """
    squares = [
        square(found) * float(counts_here(parameter, groups)) for parameter, found in own_parts(parameters, part)
    ]
    return torch.stack(squares).sum() if squares else part.new_zeros(())


def own_parts(parameters: Iterable[nn.Parameter], part: Tensor) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """What this rank's partition of a parameter group holds, parameter by parameter, without padding."""
    for parameter in parameters:
        stretch = own_stretch(parameter)
        if stretch is not None:
            yield parameter, part[stretch.owner_start : stretch.owner_start + stretch.numel]


def notice_replicas(optimizer: ZeroOptimizer, groups: Groups, *, note: Callable[[Tensor], None] | None) -> None:
    """Let a ZeRO optimizer see what is not finite in gradients that its norm counts on tp_rank 0 alone.

    A replica gone astray on another rank would else be followed there. Where nothing is sliced nothing is replicated.
    `note` is told on the device; None where gradients are on the host, and DeepSpeed looks at them itself.
    """
    if isinstance(optimizer, Stage12Optimizer) and note is not None:
        optimizer.has_overflow = partial(_noted, optimizer, groups, note)
    if groups.degrees["tensor"] == 1:
        return
    if isinstance(optimizer, Bf16Optimizer):
        if groups.degrees["data"] == 1:  # else `part_square` sees them
            optimizer.get_grads_for_norm = partial(_with_replicas, optimizer, optimizer.get_grads_for_norm, groups)
    elif isinstance(optimizer, Stage3Optimizer):  # it looks at every value in fp16 only
        optimizer.norm_groups = partial(_with_overflow, optimizer, optimizer.norm_groups, groups, note)
    elif isinstance(optimizer, Stage12Optimizer):
        optimizer.check_grad_overflow = True


def _with_replicas(
    optimizer: Bf16Optimizer, counted: Callable[..., Any], groups: Groups, for_clipping: bool = False
) -> Any:
    if for_clipping:
        return counted(for_clipping=True)
    gradients, of_experts = counted()
    for parameters, held in zip(optimizer.groups, optimizer.fp32_groups_gradients, strict=True):
        replicas = (g for g, p in zip(held, parameters, strict=True) if not counts_here(p, groups))
        gradients += [square(gradient) * 0.0 for gradient in replicas]
    return gradients, of_experts


def _noted(
    optimizer: Stage12Optimizer, groups: Groups, note: Callable[[Tensor], None], partition_gradients: bool = True
) -> bool:
    if groups.degrees["tensor"] > 1:  # else the norm has seen them all
        note(_is_astray(optimizer, groups))
    return False


def _is_astray(optimizer: Stage12Optimizer | Stage3Optimizer, groups: Groups) -> Tensor:
    """bool []: whether any gradient of any rank of any model is not finite."""
    held = (gradient for some in optimizer.averaged_gradients.values() for gradient in some or ())
    found = [~gradient.isfinite().all() for gradient in held]
    lost = torch.stack(found).any().to(torch.uint8) if found else torch.zeros((), dtype=torch.uint8)
    lost = lost.to(optimizer.device)
    for group in (groups.data, groups.model):
        dist.all_reduce(lost, op=dist.ReduceOp.MAX, group=group)
    return lost.bool()


def _with_overflow(
    optimizer: Stage3Optimizer,
    norms: Callable[[], list[Tensor]],
    groups: Groups,
    note: Callable[[Tensor], None] | None,
) -> list[Tensor]:
    found = norms()
    if note is not None:
        note(_is_astray(optimizer, groups))
        return found
    return [*found, torch.full_like(found[0], torch.inf)] if optimizer.has_overflow() else found


def square(gradient: Tensor) -> Tensor:
    """The squared norm, fp32, in one pass without a copy."""
    return torch.linalg.vector_norm(gradient.detach(), dtype=torch.float32).square()


def counts_here(parameter: nn.Parameter, groups: Groups) -> bool:
    """Whether this rank's gradient of a weight enters the norm of the whole model: of copies, one does."""
    return (is_slice(parameter) or groups.tp_rank == 0) and not is_copy(parameter)
