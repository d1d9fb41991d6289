"""The entropy of predictions whose logits are sliced over tensor-parallel ranks."""

import torch
import torch.distributed as dist
from torch import Tensor


class SlicedEntropies:
    """`hierlm.nn.resampling.boundaries.entropies` of whole rows, from this rank's part [..., V'] of their logits.

    The same on every rank of the group. Three numbers a token travel, and no gradient.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def __call__(self, logits: Tensor) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        largest = wide.amax(dim=-1, keepdim=True)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group)
        shifted = wide - largest
        weights = shifted.exp()
        sums = torch.stack(
            [weights.sum(dim=-1, dtype=torch.float64), (weights * shifted).sum(dim=-1, dtype=torch.float64)]
        )
        dist.all_reduce(sums, group=self._group)
        total, weighted = sums
        return total.log() - weighted / total
