"""Copies of tensors in host memory that is taken once and used again: the next copy costs its bytes, no page faults."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

Kind = tuple[torch.dtype, int]


class HostCopies:
    """One copy of everything at a time: `take` again only when the copies of before are done with."""

    def __init__(self, *, pinned: bool) -> None:
        """`pinned` memory is what a GPU copies into at full speed."""
        self._pinned = pinned
        self._buffers: dict[Kind, list[Tensor]] = defaultdict(list)
        self._num_used: dict[Kind, int] = {}
        self._copied: dict[tuple[Any, ...], Tensor] = {}

    def take(self, state: Any) -> Any:
        """The same structure of dicts, lists and tuples with copies for its tensors; other objects are passed on.

        What the state holds twice is copied once.
        """
        self._num_used, self._copied = {}, {}
        copy = self._of(state)
        if self._pinned:
            torch.cuda.synchronize()
        self._copied = {}
        return copy

    def _of(self, item: Any) -> Any:
        if isinstance(item, Tensor):
            return self._of_tensor(item.detach())
        if isinstance(item, dict):
            return type(item)((key, self._of(value)) for key, value in item.items())
        if isinstance(item, tuple) and hasattr(item, "_fields"):
            return type(item)(*map(self._of, item))
        return type(item)(map(self._of, item)) if type(item) in (list, tuple) else item

    def _of_tensor(self, tensor: Tensor) -> Tensor:
        place = (tensor.data_ptr(), tensor.device, tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() == 0:
            return tensor.cpu()
        if place not in self._copied:
            copy = self._next_buffer((tensor.dtype, tensor.numel())).view(tensor.shape)
            self._copied[place] = copy.copy_(tensor, non_blocking=self._pinned)
        return self._copied[place]

    def _next_buffer(self, kind: Kind) -> Tensor:
        used = self._num_used.get(kind, 0)
        self._num_used[kind] = used + 1
        if used == len(self._buffers[kind]):
            dtype, size = kind
            self._buffers[kind].append(torch.empty(size, dtype=dtype, pin_memory=self._pinned))
        return self._buffers[kind][used]
