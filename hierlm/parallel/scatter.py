"""A reduce-scatter in two halves: begun where gradients are ready, finished where their sum is needed."""

from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Scatter(Protocol):
    """One that is under way."""

    def finish(self, out: Tensor) -> None:
        """Write this rank's part of the mean over ranks, fp32, into `out`, which may lie inside what was sent."""


def begin_scatter(values: Tensor, *, group: dist.ProcessGroup, dtype: torch.dtype) -> Scatter:
    """Send each rank of `group` its part of `values` [ranks x part], of which all ranks hold equally many, as `dtype`.

    `values` must stay as they are until it is finished.
    """
    is_nccl = dist.get_backend(group) == dist.Backend.NCCL
    return (_InOne if is_nccl else _ByExchange)(values.to(dtype), group)


class _ByExchange:
    """Every rank is sent its parts and adds them up itself, in fp32 whatever type travels.

    Gloo's own reduce-scatter moves as many bytes as an all-reduce, twice what is needed.
    """

    def __init__(self, sent: Tensor, group: dist.ProcessGroup) -> None:
        self._num_ranks, self._sent, self._received = group.size(), sent, torch.empty_like(sent)
        self._work = dist.all_to_all_single(self._received, sent, group=group, async_op=True)

    def finish(self, out: Tensor) -> None:
        self._work.wait()
        torch.sum(self._received.view(self._num_ranks, -1), 0, dtype=out.dtype, out=out)
        out.div_(self._num_ranks)


class _InOne:
    """NCCL's, which adds on the way, in the type that travels."""

    def __init__(self, sent: Tensor, group: dist.ProcessGroup) -> None:
        self._num_ranks, self._sent = group.size(), sent  # held until the device has read it
        self._part = sent.new_empty(sent.numel() // self._num_ranks)
        self._work = dist.reduce_scatter_tensor(self._part, sent, group=group, async_op=True)

    def finish(self, out: Tensor) -> None:
        self._work.wait()
        out.copy_(self._part)
        out.div_(self._num_ranks)
