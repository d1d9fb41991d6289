"""Gradients of weights that each tensor-parallel rank makes of its share of the tokens, added up once a step.

A block has eight such weights (norms, biases behind a sum), each so small that its message would be all latency: so
they travel together, between the last backward pass and the update, whatever ZeRO has made of them by then. Ranks that
differ in nothing but their slice hold the same stretches of them.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierlm.parallel.before_update import Gradients


def add_up(gradients: Gradients, parameters: Sequence[nn.Parameter], *, group: dist.ProcessGroup) -> None:
    """Sum those of `parameters` over the group, in place; every rank of it calls it."""
    wanted = {id(parameter) for parameter in parameters}
    held = [gradient for parameter, gradient in gradients.held() if id(parameter) in wanted]
    if not held:
        return
    together = torch.cat([gradient.reshape(-1) for gradient in held])
    dist.all_reduce(together, group=group)
    _put_back(together, held)


def _put_back(together: Tensor, held: Iterable[Tensor]) -> None:
    first = 0
    for gradient in held:
        gradient.copy_(together[first : first + gradient.numel()].view_as(gradient))
        first += gradient.numel()
