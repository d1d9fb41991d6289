"""Counts the messages that a process sends through torch.distributed, whoever sends them and however.

    with counted() as messages:
        engine.train_step(...)
    sum(message.values for message in messages if message.kind == "all_reduce")

What is wrapped are the methods of the process group itself, behind every function of torch.distributed: asynchronous,
batched and coalesced calls come by, and so do those of DeepSpeed and megatron-core, which hold on to functions of their
own import.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, NamedTuple
from unittest.mock import patch

import torch.distributed as dist
from torch import Tensor

WHOLE = {
    # method of the group -> (kind, the argument that is as large as what all ranks hold together)
    "allreduce": ("all_reduce", 0),
    "allreduce_coalesced": ("all_reduce", 0),
    "reduce": ("reduce", 0),
    "broadcast": ("broadcast", 0),
    "allgather": ("all_gather", 0),
    "allgather_coalesced": ("all_gather", 0),
    "_allgather_base": ("all_gather", 0),
    "all_gather_single": ("all_gather", 0),
    "allgather_into_tensor_coalesced": ("all_gather", 0),
    "all_gather_single_coalesced": ("all_gather", 0),
    "gather": ("gather", 1),
    "scatter": ("scatter", 0),
    "reduce_scatter": ("reduce_scatter", 1),
    "_reduce_scatter_base": ("reduce_scatter", 1),
    "reduce_scatter_single": ("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced": ("reduce_scatter", 1),
    "reduce_scatter_single_coalesced": ("reduce_scatter", 1),
    "alltoall": ("all_to_all", 1),
    "alltoall_base": ("all_to_all", 1),
    "all_to_all_single": ("all_to_all", 1),
    "send": ("send", 0),
}
"""What is received point to point is counted where it is sent; a barrier carries nothing."""

TIMES = {"all_reduce": 2}
"""An all-reduce is a reduce-scatter and an all-gather of the same: no way is shorter (Patarasuk and Yuan 2009)."""


class Message(NamedTuple):
    """One call of a group of more than one rank, seen on one of them."""

    kind: str  # all_reduce, all_gather, reduce_scatter, all_to_all, broadcast, gather, scatter, reduce, send
    ranks: tuple[int, ...]  # of the group
    sizes: tuple[int, ...]  # values of each tensor
    value_bytes: int
    seconds: float  # when, by `time.perf_counter`

    @property
    def values(self) -> int:
        """What passes a rank's door at least, in one direction, as if there were endlessly many ranks.

        So an all-gather or a reduce-scatter of n values counts n, an all-reduce 2 n; of N ranks it is (N - 1) / N of
        it, which is left out: it would make the same layout look better on fewer ranks.
        """
        return sum(self.sizes) * TIMES.get(self.kind, 1)

    @property
    def bytes(self) -> int:
        return self.values * self.value_bytes


@contextmanager
def counted() -> Iterator[list[Message]]:
    """Inside, this process's messages are appended to what is handed out, in the order in which they are begun."""
    found: list[Message] = []
    with ExitStack() as stack:
        for method, (kind, place) in WHOLE.items():
            own = getattr(dist.ProcessGroup, method, None)
            if own is not None:
                wrapped = _counting(own, kind, place, found)
                stack.enter_context(patch.object(dist.ProcessGroup, method, wrapped))
        yield found


def _counting(own: Callable[..., Any], kind: str, place: int, found: list[Message]) -> Callable[..., Any]:
    @wraps(own)
    def call(group: dist.ProcessGroup, *given: Any, **named: Any) -> Any:
        tensors = _tensors((*given, *named.values())[place]) or _tensors((*given, *named.values())[1 - place])
        if group.size() > 1:
            ranks = tuple(dist.get_process_group_ranks(group))
            sizes = tuple(tensor.numel() for tensor in tensors)
            width = tensors[0].element_size() if tensors else 0
            found.append(Message(kind, ranks, sizes, width, time.perf_counter()))
        return own(group, *given, **named)

    return call


def _tensors(given: Any) -> Sequence[Tensor]:
    """All of a nest of lists."""
    if isinstance(given, Tensor):
        return [given]
    return [tensor for each in given for tensor in _tensors(each)] if isinstance(given, list | tuple) else []
