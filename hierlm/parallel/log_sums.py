"""The log-sum of each token's logits, from what cross entropy has found: nats + the target's logit.

So nothing of the logits is kept for it, and their gradient comes through that of the nats: with sliced logits, in
chunks, and where one kernel makes the nats.

Shapes: B rows, T tokens, V' a slice of the vocabulary or all of it.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from hierlm.nn.report import Report
from hierlm.parallel.weighting import ALIKE, Counting

Z_LOSS = "z"
"""What the loss on log-sums is called."""


class Slice(NamedTuple):
    """Which part of the vocabulary a rank's logits are of."""

    first: int
    group: dist.ProcessGroup


def target_logits(logits: Tensor, targets: Tensor, *, part: Slice | None) -> Tensor:
    """logits [B, T, V'], targets int64 [B, T] -> fp32 [B, T], of all ranks' slices; read before anybody overwrites."""
    if part is None:
        return _picked(logits, targets)
    own = targets - part.first
    is_here = (own >= 0) & (own < logits.shape[-1])
    found = _picked(logits, own.clamp(0, logits.shape[-1] - 1))
    total: Tensor = _Sum.apply(torch.where(is_here, found, 0.0), part.group)
    return total


def z_loss(log_sums: Tensor, *, weight: float, counting: Counting = ALIKE) -> Report:
    """log-sums fp32 [B, T], 0 where nothing is predicted -> their mean square (PaLM, 2204.02311, section 5).

    Tokens count as they do in the objective's loss (`hierlm.parallel.weighting`).
    """
    squares, (weights, scale) = log_sums.square(), counting
    if weights is None or scale is None:
        return Report(Z_LOSS, "loss", squares.mean(dim=1), weight=weight)
    return Report(Z_LOSS, "loss", (squares * weights).sum(dim=1) * scale * len(squares), weight=weight)


def _picked(logits: Tensor, places: Tensor) -> Tensor:
    """One of each token's, fp32 [B, T]. `gather` would keep all of them for its backward pass."""
    flat = logits.flatten(0, 1)
    return flat[torch.arange(len(flat), device=flat.device), places.flatten()].view_as(places).float()


class _Sum(torch.autograd.Function):
    """Over ranks, of which each then holds the same and its gradient."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = part.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
