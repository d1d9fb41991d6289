"""The heads of attention as projections make and read them: in memory a position's heads lie side by side.

Shapes: B batch, T positions, H heads, K head_dim.
"""

from torch import Tensor


def joined(heads: Tensor) -> Tensor:
    """[B, H, T, K] -> [B, T, H K]."""
    return heads.transpose(1, 2).flatten(2)


def like_projections(heads: Tensor) -> Tensor:
    """Room for as many heads [B, H, T, K], which `joined` need not copy."""
    batch, num_heads, length, head_dim = heads.shape
    return heads.new_empty(batch, length, num_heads, head_dim).transpose(1, 2)
