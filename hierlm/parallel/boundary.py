"""The stream at a stage boundary: what DeepSpeed's pipeline sends.

A single level travels as it is. A stack travels as (all levels end to end in one tensor, their shapes): DeepSpeed runs
the backward pass once per floating-point tensor it has sent, each time through everything the tensors share, so that
levels sent apart would cost the layers below them one backward pass per level. Inputs and reports do not travel.

Tensor-parallel ranks hold the same stream: each sends its part of the numbers to its counterpart on the next stage,
where they are gathered; so do gradients on their way back (Narayanan et al. 2021, 2104.04473, section 4.1). Between the
stages, where the network is slowest, a stream travels once and not once a rank. DeepSpeed's own way of doing so
(`pipe_partitioned`) knows one differentiable tensor, and sends shapes with each.

Shapes: n = ceil(numbers of all levels / degree), the last ones padding.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn.stream import Stream

Payload = Tensor | tuple[Tensor, ...]


class Parts:
    """Numbers that every rank of a group holds, as this rank's part of them and back."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group, self._degree, self._rank = group, group.size(), group.rank()

    def own(self, numbers: Tensor) -> Tensor:
        """[N] -> [n], which keeps nothing of the others alive."""
        size = -(-len(numbers) // self._degree)
        own = numbers[self._rank * size : (self._rank + 1) * size]
        return F.pad(own, (0, size - len(own))) if len(own) < size else own.clone()

    def together(self, own: Tensor, count: int) -> Tensor:
        """[n] of every rank -> [count]."""
        numbers = own.new_empty(self._degree * len(own))
        dist.all_gather_into_tensor(numbers, own.contiguous(), group=self._group)
        return numbers[:count]


class Packer:
    """Makes what a stage sends to the next; `parts` where other ranks hold the same stream."""

    def __init__(self, parts: Parts | None = None) -> None:
        self._parts = parts
        self._shapes: dict[tuple[torch.Size, ...], Tensor] = {}  # made once: a copy to a device waits for it

    def pack(self, stream: Stream) -> Payload:
        """ValueError for levels of different types, which cannot share a tensor."""
        if len(stream.levels) == 1 and self._parts is None:
            return stream.hidden.contiguous()
        dtypes = {level.dtype for level in stream.levels}
        if len(dtypes) > 1:
            types = sorted(map(str, dtypes))
            raise ValueError(f"pipeline: the levels at a stage boundary have different types: {types}")
        numbers = torch.cat([level.reshape(-1) for level in stream.levels])
        if self._parts is not None:
            numbers = _Own.apply(numbers, self._parts)
        return numbers, self._shapes_of(stream.levels)

    def _shapes_of(self, levels: Sequence[Tensor]) -> Tensor:
        key = tuple(level.shape for level in levels)
        if key not in self._shapes:
            self._shapes = {key: torch.tensor(key, device=levels[0].device)}
        return self._shapes[key]


class Unpacker:
    """Reads the shapes off the device once, because reading waits for the device: they hold until `forget`."""

    def __init__(self, parts: Parts | None = None) -> None:
        self._parts = parts
        self._shapes: list[list[int]] = []

    def unpack(self, payload: Payload) -> tuple[Tensor, ...]:
        """The levels the stage before has packed, or the tokens that enter the first stage."""
        if isinstance(payload, Tensor):
            return (payload,)
        packed, shapes = payload
        self._shapes = self._shapes or shapes.tolist()
        counts = [math.prod(shape) for shape in self._shapes]
        if self._parts is not None:
            packed = _Together.apply(packed, self._parts, sum(counts))
        parts = packed.split(counts)
        return tuple(part.view(shape) for part, shape in zip(parts, self._shapes, strict=True))

    def forget(self) -> None:
        """The next payload has other shapes."""
        self._shapes = []


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, numbers: Tensor, parts: Parts) -> Tensor:
        ctx.parts, ctx.count = parts, len(numbers)
        return parts.own(numbers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.parts.together(gradient, ctx.count), None


class _Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, parts: Parts, count: int) -> Tensor:
        ctx.parts = parts
        return parts.together(own, count)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.parts.own(gradient), None, None
