"""Heads of keys and values where there are fewer of them than tensor-parallel ranks (grouped-query attention).

Every rank holds all of them, the same numbers, and makes the one that its own query heads look at. Of their gradients a
rank sees what its queries say, so those are summed over the ranks; so is what goes back to the block's input.

Shapes: D hidden_dim, K head_dim, G heads of keys and values in all.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.parallel.groups import Groups


class SharedHeads(nn.Module):
    """Whole input [..., D] -> [..., K]: the head of this rank's queries, out of a projection onto G."""

    def __init__(self, whole: nn.Linear, *, num_heads: int, groups: Groups) -> None:
        super().__init__()
        self.weight, self.bias = whole.weight, whole.bias
        head_dim = whole.out_features // num_heads
        first = groups.tp_rank * num_heads // groups.degrees["tensor"] * head_dim
        self._rows = slice(first, first + head_dim)
        self._group: dist.ProcessGroup | None = groups.tensor

    def leave_input_gradient_in_parts(self) -> None:
        """For a caller who sums over ranks what every rank's slice contributes."""
        self._group = None

    def forward(self, x: Tensor) -> Tensor:
        if self._group is not None:
            x = _SummedGradient.apply(x, self._group)
        return F.linear(x, self.weight[self._rows], None if self.bias is None else self.bias[self._rows])


class _SummedGradient(torch.autograd.Function):
    """What it is given; the gradient is the sum of all ranks'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None
