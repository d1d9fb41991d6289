"""Where a vector stands, in token units, as rotations or as an added wave.

Shapes: B batch, H heads, T positions, K head_dim, D hidden_dim. Positions are float32 [T] and may be negative.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

BASE = 10_000.0


def token_positions(num_positions: int, *, first: int = 0, stride: int = 1, device: torch.device) -> Tensor:
    """[T]: first, first + 1, ... times `stride` tokens."""
    return torch.arange(first, first + num_positions, device=device, dtype=torch.float32) * stride


def _angles(positions: Tensor, dim: int) -> Tensor:
    exponents = torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim
    return positions[:, None] * BASE**-exponents


def rotate(heads: Tensor, positions: Tensor) -> Tensor:
    """[B, H, T, K] -> the same, each pair (j, j + K/2) turned by its position (RoFormer, 2104.09864, eq. 34)."""
    angles = _angles(positions, heads.shape[-1])
    cosine, sine = angles.cos().to(heads.dtype), angles.sin().to(heads.dtype)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)


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
