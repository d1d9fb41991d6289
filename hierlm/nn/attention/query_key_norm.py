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
from hierlm.nn.shape import QueryKeyNorm


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


def make_query_key_norm(kind: QueryKeyNorm, *, num_heads: int, head_dim: int, epsilon: float) -> nn.Module:
    """The norm of one of the two projections; nothing for `none`."""
    if kind == "none":
        return nn.Identity()
    return HeadNorm(head_dim if kind == "head" else num_heads * head_dim, epsilon=epsilon)
