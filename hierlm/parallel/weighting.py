"""The loss of a step where targets count unequally: sum(w nats) / sum(w), over the whole global batch.

The mean of each micro-batch would be another loss for every micro-batch size and every layout, as soon as rows hold
unequally much weight. So the sum of all weights is known before the first pass, and each micro-batch gives its part:
its weighted sum, times what makes the mean over micro-batches and over data-parallel ranks, which DeepSpeed takes, a
sum over the global batch divided by W.

Shapes: B rows of a micro-batch, T tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from hierlm.parallel.groups import Groups
from hierlm.parallel.micro_batch import MicroBatch

LEAST_WEIGHT = 1e-12
"""A global batch in which nothing counts has the loss 0."""


class Counting(NamedTuple):
    """How the targets of a micro-batch count in training."""

    weights: Tensor | None  # fp32 [B, T]; None: alike
    scale: Tensor | None  # `scale_of` all micro-batches of the step


ALIKE = Counting(None, None)


def scale_of(micro_batches: Sequence[MicroBatch], *, groups: Groups) -> Tensor | None:
    """What the weighted sum of each micro-batch is multiplied by, fp32 []; None where every target counts alike.

    One message over data-parallel ranks, made on the device: nobody waits for it. Every rank of a stage calls it.
    """
    weights = [batch.weights for batch in micro_batches if batch.weights is not None]
    if not weights:
        return None
    total = torch.stack([weight.double().sum() for weight in weights]).sum()
    dist.all_reduce(total, group=groups.data)
    return (len(micro_batches) * groups.degrees["data"] / total.clamp(min=LEAST_WEIGHT)).float()


def part_of_loss(nats: Tensor, weights: Tensor | None, scale: Tensor | None) -> Tensor:
    """nats and weights fp32 [B, T] -> this micro-batch's part of the loss, which is the mean of all parts."""
    if weights is None or scale is None:
        return nats.mean()
    return (nats * weights).sum() * scale
