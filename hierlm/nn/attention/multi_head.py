"""Multi-head attention (1706.03762, section 3.2.2) with positions given by the caller.

Shapes: B batch, Q queries, S keys, D hidden_dim, H heads, G heads of keys and values, K head_dim.
The number of heads is read off the projection's width, so a projection may hold only some of the heads. With G < H each
head of keys and values serves H / G neighbouring query heads (grouped-query attention, 2305.13245).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hierlm.nn.attention.heads import joined
from hierlm.nn.attention.positions import rotate
from hierlm.nn.attention.query_key_norm import make_query_key_norm
from hierlm.nn.attention.visibility import Rule
from hierlm.nn.attention.weights_dropout import weights_site
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.shape import BlockShape


class KeyValues(NamedTuple):
    """What queries look at, [B, G, S, K] each; rotary keys already carry their position."""

    keys: Tensor
    values: Tensor

    @property
    def num_keys(self) -> int:
        """S."""
        return self.keys.shape[2]


class KeyValueLinear(Linear):
    """A projection to whole heads, of which several query heads may read one: no rank can hold less than that."""

    def __init__(self, width_in: int, *, num_heads: int, head_dim: int, bias: bool) -> None:
        super().__init__(width_in, num_heads * head_dim, bias=bias)
        self.num_heads = num_heads


class Attention(nn.Module):
    """Four projections; the caller's rule decides who sees whom."""

    def __init__(self, shape: BlockShape, *, num_heads: int | None = None, output_bias: bool = True) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.rotary = shape.rotary if shape.positions == "rotary" else None
        own, others = num_heads or shape.num_heads, num_heads or shape.kv_heads
        width = {"head_dim": shape.head_dim, "bias": shape.has_biases}
        self.query = Linear(shape.hidden_dim, own * shape.head_dim, bias=shape.has_biases)
        self.key = KeyValueLinear(shape.hidden_dim, num_heads=others, **width)
        self.value = KeyValueLinear(shape.hidden_dim, num_heads=others, **width)
        self.output = Linear(own * shape.head_dim, shape.hidden_dim, bias=output_bias and shape.has_biases)
        normed = {"head_dim": shape.head_dim, "epsilon": shape.norm.epsilon}
        self.query_norm = make_query_key_norm(shape.qk_norm, num_heads=own, **normed)
        self.key_norm = make_query_key_norm(shape.qk_norm, num_heads=others, **normed)
        self.weights_dropout = weights_site(shape.attention_dropout)

    def key_values(self, x: Tensor, positions: Tensor, *, past: KeyValues | None = None) -> KeyValues:
        """x [B, S, D] at positions [S], appended to `past`."""
        keys, values = self._placed(self.key_norm(self.key(x)), positions), self._split(self.value(x))
        if past is None:
            return KeyValues(keys, values)
        return KeyValues(torch.cat((past.keys, keys), dim=2), torch.cat((past.values, values), dim=2))

    def forward(self, x: Tensor, positions: Tensor, *, seen: KeyValues, rule: Rule, stride: int = 1) -> Tensor:
        """Queries x [B, Q, D] at positions [Q] look at `seen` by `rule` -> [B, Q, D].

        On the finer of the two sides neighbours lie `stride` tokens apart.
        """
        queries = self._placed(self.query_norm(self.query(x)), positions)
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

    def _placed(self, x: Tensor, positions: Tensor) -> Tensor:
        heads = self._split(x)
        return heads if self.rotary is None else rotate(heads, positions, rotary=self.rotary)
