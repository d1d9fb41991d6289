"""The stream at a stage boundary: what DeepSpeed's pipeline sends.

A single level travels as it is. A stack travels as (all levels end to end in one tensor, their shapes): DeepSpeed runs
the backward pass once per floating-point tensor it has sent, each time through everything the tensors share, so that
levels sent apart would cost the layers below them one backward pass per level. Inputs and reports do not travel.
"""

import math

import torch
from torch import Tensor

from hierlm.nn.stream import Stream

Payload = Tensor | tuple[Tensor, ...]


def pack(stream: Stream) -> Payload:
    """What a stage sends to the next. ValueError for levels of different types, which cannot share a tensor."""
    if len(stream.levels) == 1:
        return stream.hidden.contiguous()
    dtypes = {level.dtype for level in stream.levels}
    if len(dtypes) > 1:
        raise ValueError(f"pipeline: the levels at a stage boundary have different types: {sorted(map(str, dtypes))}")
    shapes = torch.tensor([level.shape for level in stream.levels], device=stream.hidden.device)
    return torch.cat([level.reshape(-1) for level in stream.levels]), shapes


class Unpacker:
    """Reads the shapes off the device once, because reading waits for the device: they hold until `forget`."""

    def __init__(self) -> None:
        self._shapes: list[list[int]] = []

    def unpack(self, payload: Payload) -> tuple[Tensor, ...]:
        """The levels the stage before has packed, or the tokens that enter the first stage."""
        if isinstance(payload, Tensor):
            return (payload,)
        packed, shapes = payload
        self._shapes = self._shapes or shapes.tolist()
        parts = packed.split([math.prod(shape) for shape in self._shapes])
        return tuple(part.view(shape) for part, shape in zip(parts, self._shapes, strict=True))

    def forget(self) -> None:
        """The next payload has other shapes."""
        self._shapes = []
