"""Where a vector stands, in token units, as rotations or as an added wave.

Shapes: B batch, H heads, T positions, K head_dim, D hidden_dim. Positions are float32 [T] and may be negative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn.shape import Rotary

BASE = 10_000.0
"""Of added waves (1706.03762, section 3.5)."""


HALF_SPLIT = Rotary()


def token_positions(num_positions: int, *, first: int = 0, stride: int = 1, device: torch.device) -> Tensor:
    """[T]: first, first + 1, ... times `stride` tokens."""
    return torch.arange(first, first + num_positions, device=device, dtype=torch.float32) * stride


def _angles(positions: Tensor, dim: int, *, base: float = BASE) -> Tensor:
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    return positions[:, None] * base**-exponents


def rotate(heads: Tensor, positions: Tensor, *, rotary: Rotary = HALF_SPLIT) -> Tensor:
    """[B, H, T, K] -> the same, each pair turned by its position (RoFormer, 2104.09864, eq. 34).

    Pair j is (j, j + K/2), or with `interleaved` (2j, 2j + 1): another order of the same projection's rows.
    """
    angles = _angles(positions, heads.shape[-1], base=rotary.base)
    cosine, sine = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    is_interleaved = rotary.layout == "interleaved"
    first, second = heads.unflatten(-1, (-1, 2)).unbind(-1) if is_interleaved else heads.chunk(2, dim=-1)
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    return torch.stack(turned, dim=-1).flatten(-2) if is_interleaved else torch.cat(turned, dim=-1)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """[T] -> [T, dim]: sines, then cosines (Attention is all you need, 1706.03762, section 3.5)."""
    angles = _angles(positions, dim)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def relative_shift(products: Tensor) -> Tensor:
    """[..., T, U] -> [..., T, U]: out[i, j] = products[i, j + T - 1 - i]; where that is no column, anything.

    Transformer-XL (1901.02860), appendix B: with columns that go from the farthest distance to the nearest, row T-1
    first, column j then holds the distance of pair (i, j).
    """
    num_queries, num_distances = products.shape[-2:]
    padded = F.pad(products, (1, 0)).flatten(-2)
    return padded[..., num_queries:].unflatten(-1, (num_queries, num_distances))
