"""Queries and keys of length one in the root mean square, times a gain, before they are turned by their positions.

    head     each head by itself, one gain of K numbers for all of them (Qwen 3, 2505.09388)
    vector   all heads together, with as many gains as numbers (OLMo 2, 2501.00656)

Shapes: B batch, T positions, H heads, K head_dim.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from hierlm.nn.kernels.rms_norm import rms_norm
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.shape import BlockShape


class HeadNorm(nn.Module):
    """[B, T, H K] -> the same; whoever runs it may hold some of the heads."""

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"weight": "vector"}

    def __init__(self, width: int, *, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (-1, len(self.weight)))
        return rms_norm(heads, self.weight, epsilon=self.epsilon).flatten(-2)


def make_query_key_norm(shape: BlockShape, *, num_heads: int | None = None) -> nn.Module:
    """The norm of one of the two projections, onto as many heads as the block has or so many; nothing for `none`."""
    if shape.qk_norm == "none":
        return nn.Identity()
    heads_at_once = 1 if shape.qk_norm == "head" else num_heads or shape.num_heads
    return HeadNorm(heads_at_once * shape.head_dim, epsilon=shape.norm.epsilon)
