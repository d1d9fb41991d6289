"""Multi-head attention (1706.03762, section 3.2.2) with positions given by the caller.

Shapes: B batch, Q queries, S keys, D hidden_dim, H heads, K head_dim.
The number of heads is read off the projection's width, so a projection may hold only some of the heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hierlm.nn.attention.heads import joined
from hierlm.nn.attention.positions import rotate
from hierlm.nn.attention.visibility import Rule
from hierlm.nn.attention.weights_dropout import weights_site
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.shape import BlockShape


class KeyValues(NamedTuple):
    """What queries look at, [B, H, S, K] each; rotary keys already carry their position."""

    keys: Tensor
    values: Tensor

    @property
    def num_keys(self) -> int:
        """S."""
        return self.keys.shape[2]


class Attention(nn.Module):
    """Four projections; the caller's rule decides who sees whom."""

    def __init__(self, shape: BlockShape, *, num_heads: int | None = None, output_bias: bool = True) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.is_rotary = shape.positions == "rotary"
        width = (num_heads or shape.num_heads) * shape.head_dim
        self.query = Linear(shape.hidden_dim, width)
        self.key = Linear(shape.hidden_dim, width)
        self.value = Linear(shape.hidden_dim, width)
        self.output = Linear(width, shape.hidden_dim, bias=output_bias)
        self.weights_dropout = weights_site(shape.attention_dropout)

    def key_values(self, x: Tensor, positions: Tensor, *, past: KeyValues | None = None) -> KeyValues:
        """x [B, S, D] at positions [S], appended to `past`."""
        keys, values = self._placed(self._split(self.key(x)), positions), self._split(self.value(x))
        if past is None:
            return KeyValues(keys, values)
        return KeyValues(torch.cat((past.keys, keys), dim=2), torch.cat((past.values, values), dim=2))

    def forward(self, x: Tensor, positions: Tensor, *, seen: KeyValues, rule: Rule, stride: int = 1) -> Tensor:
        """Queries x [B, Q, D] at positions [Q] look at `seen` by `rule` -> [B, Q, D].

        On the finer of the two sides neighbours lie `stride` tokens apart.
        """
        queries = self._placed(self._split(self.query(x)), positions)
        heads = self.attend(queries, seen=seen, rule=rule, stride=stride)
        return self.output(joined(heads))

    def attend(self, queries: Tensor, *, seen: KeyValues, rule: Rule, stride: int) -> Tensor:
        """[B, H, Q, K] -> [B, H, Q, K]; rotary positions are already in the vectors."""
        if self.weights_dropout is None or not self.weights_dropout.is_active:
            return rule.attend(queries, seen.keys, seen.values)
        mask = rule.mask(queries.shape[2], seen.num_keys, device=queries.device)
        bias = queries.new_zeros(mask.shape).masked_fill(~mask, float("-inf"))
        return self.weights_dropout.attend(queries, seen.keys, seen.values, bias=bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _placed(self, heads: Tensor, positions: Tensor) -> Tensor:
        return rotate(heads, positions) if self.is_rotary else heads
