"""Relative attention between any two levels (Transformer-XL, 1901.02860, section 3.3).

Shapes: B batch, H heads, Q queries, S keys, K head_dim, D hidden_dim.
score_ij = [(q_i + u) . k_j + (q_i + v) . r(o_ij)] / sqrt(K), o_ij = how many tokens key j lies after query i.
The bias of every pair is needed at once, so this kind costs O(H * Q * S) memory where rotary positions cost O(S).
"""

from typing import ClassVar

import torch
from torch import Tensor

from hierlm.nn.attention.multi_head import Attention, KeyValues
from hierlm.nn.attention.positions import sinusoids
from hierlm.nn.attention.visibility import Rule
from hierlm.nn.kernels.attend import attend_under
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.shape import BlockShape


class OffsetAttention(Attention):
    """Attention by content and by offset.

    `u` and `v` are the only columns of bias-free linear maps of the number 1, so that they are cut by heads exactly
    like the query projection they are added to.
    """

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"content_bias": "vector", "position_bias": "vector"}

    def __init__(self, shape: BlockShape) -> None:
        super().__init__(shape)
        self.position = Linear(shape.hidden_dim, shape.hidden_dim, bias=shape.has_biases)
        self.content_bias = Linear(1, shape.hidden_dim, bias=False)
        self.position_bias = Linear(1, shape.hidden_dim, bias=False)

    def attend(self, queries: Tensor, *, seen: KeyValues, rule: Rule, stride: int) -> Tensor:
        """[B, H, Q, K] -> [B, H, Q, K]."""
        one = queries.new_ones(1, 1, 1)
        content, position = (self._split(bias(one)) for bias in (self.content_bias, self.position_bias))
        bias = self._bias((queries + position) * self.head_dim**-0.5, seen.num_keys, rule=rule, stride=stride)
        if self.weights_dropout is not None and self.weights_dropout.is_active:
            return self.weights_dropout.attend(queries + content, seen.keys, seen.values, bias=bias)
        return attend_under(queries + content, seen.keys, seen.values, mask=bias)

    def _bias(self, queries: Tensor, num_keys: int, *, rule: Rule, stride: int) -> Tensor:
        """[B, H, Q, S]: the position term of visible pairs, else -inf; nothing else of its size outlives it."""
        num_queries = queries.shape[2]
        span = rule.offset_span(num_queries, num_keys)
        waves = self._offset_keys(span, stride=stride, like=queries)
        by_pair = rule.by_pair(queries @ waves.transpose(-1, -2), num_keys)
        mask = rule.mask(num_queries, num_keys, device=queries.device)
        return by_pair.masked_fill(~mask, float("-inf"))

    def _offset_keys(self, span: range, *, stride: int, like: Tensor) -> Tensor:
        """[1, H, len(span), K]: the projected wave of every offset in `span`."""
        offsets = torch.arange(span.start, span.stop, device=like.device, dtype=torch.float32) * stride
        waves = sinusoids(offsets, self.position.weight.shape[1]).to(like.dtype)
        return self._split(self.position(waves[None]))


def make_attention(shape: BlockShape) -> Attention:
    """The attention that `shape.positions` asks for."""
    return OffsetAttention(shape) if shape.positions == "relative" else Attention(shape)
