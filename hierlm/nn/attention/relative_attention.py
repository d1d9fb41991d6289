"""Attention by content and by distance over a segment and the memory before it (Transformer-XL, 1901.02860).

Shapes: B batch, H heads, T queries, S = M + T keys, U distances, K head_dim, D hidden_dim.
score_ij = [(q_i + u) . k_j + (q_i + v) . r(distance_ij)] / sqrt(K)     (section 3.3)
The position term is the additive bias of fused attention, or both terms are made tile by tile (`relative_blocks`) where
no fused kernel takes a bias that learns. It costs one product with the U projected waves; where the
distances of neighbouring keys differ by one, the relative shift (appendix B) puts every value in its place.
"""

from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from hierlm.nn.attention.heads import joined
from hierlm.nn.attention.positions import relative_shift, sinusoids
from hierlm.nn.attention.weights_dropout import WeightsDropout
from hierlm.nn.basic.dropout import SharedDropout
from hierlm.nn.kernels.attend import Operands, attend_by_distance
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.memory.slots import SegmentMemory
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.shape import Rate


class Sight(NamedTuple):
    """Whom each query sees, and how far away."""

    distances: Tensor  # float32 [U], in tokens
    pairs: Tensor | None  # int64 [B or 1, T, S]: which distance a pair has; None: descending by one, last query first
    visible: Tensor  # bool [B or 1, 1, T, S]

    def clamped(self, farthest: int | None) -> "Sight":
        """Every distance beyond `farthest` counts as `farthest`."""
        return self if farthest is None else self._replace(distances=self.distances.clamp(max=farthest))

    def measured_from_last_query(self) -> "Sight":
        """Every query takes the distances of the segment's last one, as where the relative shift is left out."""
        assert self.pairs is not None
        return self._replace(pairs=self.pairs[:, -1:].expand_as(self.pairs))

    def same_length(self, length: int) -> "Sight":
        """Every query sees at most `length` keys, itself included; for slots that follow each other without gap."""
        num_queries, num_keys = self.visible.shape[-2:]
        nearest_hidden = num_keys - num_queries - length + _arange(num_queries, self.visible)[:, None]
        return self._replace(visible=self.visible & (_arange(num_keys, self.visible) > nearest_hidden))


def consecutive_sight(filled: Tensor, num_queries: int) -> Sight:
    """The slots, `filled` bool [B or 1, M], are the tokens right before the segment."""
    num_keys = filled.shape[1] + num_queries
    distances = torch.arange(num_keys - 1, -1, -1, device=filled.device, dtype=torch.float32)
    return Sight(distances, None, _visible(filled, num_queries))


def gapped_sight(memory: SegmentMemory, num_queries: int) -> Sight:
    """Each slot has the age its position says: between the slots, or before the segment, tokens may be missing."""
    queries = _arange(num_queries, memory.clock)
    ages = memory.ages
    reached = torch.unique(torch.unique(ages)[:, None] + queries)
    distances = torch.unique(torch.cat((queries, reached.flatten())))
    to_slots = ages[:, None, :] + queries[:, None]
    to_segment = (queries[:, None] - queries).clamp(min=0).expand(len(ages), -1, -1)
    pairs = torch.searchsorted(distances, torch.cat((to_slots, to_segment), dim=-1))
    return Sight(distances.float(), pairs, _visible(memory.filled, num_queries))


def two_way_sight(visible: Tensor) -> Sight:
    """The queries are the last T of the S keys, by `visible` bool [B or 1, 1, T, S]; keys after a query lie at < 0."""
    num_queries, num_keys = visible.shape[-2:]
    distances = torch.arange(num_keys - 1, -num_queries, -1, device=visible.device, dtype=torch.float32)
    return Sight(distances, None, visible)


def _visible(filled: Tensor, num_queries: int) -> Tensor:
    """bool [B or 1, 1, T, S]: filled slots, and the segment up to the query itself."""
    slots = filled[:, None, None, :].expand(-1, 1, num_queries, -1)
    segment = torch.ones(num_queries, num_queries, dtype=torch.bool, device=filled.device).tril()
    return torch.cat((slots, segment.expand(len(slots), 1, -1, -1)), dim=-1)


def _arange(length: int, like: Tensor) -> Tensor:
    return torch.arange(length, device=like.device)


class Seen(NamedTuple):
    """Projections that queries look at."""

    keys: Tensor  # [B, H, S, K]
    values: Tensor  # [B, H, S, K]
    waves: Tensor  # [1, H, U, K]: those of the distances

    def newest(self, length: int) -> "Seen":
        """The last `length` keys; all waves."""
        first = max(self.keys.shape[2] - length, 0)
        return Seen(self.keys[:, :, first:], self.values[:, :, first:], self.waves)

    def without_waves(self) -> "Seen":
        """For a next call whose distances do not end where these do."""
        return self._replace(waves=self.waves[:, :, :0])


class RelativeAttention(nn.Module):
    """Bias-free projections; the heads are counted by the projections' width, which may hold only some of them.

    `u` and `v` are bias-free linear maps of the number 1, cut by heads like the query projection they are added to.
    """

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"content_bias": "vector", "position_bias": "vector"}

    def __init__(
        self, *, hidden_dim: int, num_heads: int, dropout: Rate | float, attention_dropout: Rate | float
    ) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.head_dim = hidden_dim // num_heads
        self.query = Linear(hidden_dim, hidden_dim, bias=False)
        self.key = Linear(hidden_dim, hidden_dim, bias=False)
        self.value = Linear(hidden_dim, hidden_dim, bias=False)
        self.position = Linear(hidden_dim, hidden_dim, bias=False)
        self.output = Linear(hidden_dim, hidden_dim, bias=False)
        self.content_bias = Linear(1, hidden_dim, bias=False)
        self.position_bias = Linear(1, hidden_dim, bias=False)
        self.dropout = SharedDropout(dropout)  # on the waves
        self.attention_dropout = WeightsDropout(attention_dropout)

    def forward(self, x: Tensor, past: Tensor, sight: Sight, *, head_order: Tensor | None = None) -> Tensor:
        """Queries x [B, T, D] look at [past; x] -> [B, T, D].

        `head_order` int64 [H]: head i attends with the keys, values and projected waves of head head_order[i].
        """
        seen = self._keys_values(torch.cat((past, x), dim=1), self._waves(sight.distances, like=x))
        if head_order is not None:
            seen = Seen(*(heads[:, head_order] for heads in seen))
        return self._look(x, seen, sight)

    def extend(self, x: Tensor, past: Seen | None, sight: Sight) -> tuple[Tensor, Seen]:
        """What `forward` gives for x [B, T, D], with the projections of the past kept instead of made again."""
        if past is None:
            seen = self._keys_values(x, self._waves(sight.distances, like=x))
            return self._look(x, seen, sight), seen
        num_known = min(past.waves.shape[2], len(sight.distances))
        farther = self._waves(sight.distances[: len(sight.distances) - num_known], like=x)
        waves = torch.cat((farther, past.waves[:, :, past.waves.shape[2] - num_known :]), dim=2)
        new = self._keys_values(x, waves)
        seen = Seen(torch.cat((past.keys, new.keys), dim=2), torch.cat((past.values, new.values), dim=2), waves)
        return self._look(x, seen, sight), seen

    def _look(self, x: Tensor, seen: Seen, sight: Sight) -> Tensor:
        one, queries = x.new_ones(1, 1, 1), self._split(self.query(x))
        scale = self.head_dim**-0.5
        content = queries + self._split(self.content_bias(one))
        placed = (queries + self._split(self.position_bias(one))) * scale
        bias = partial(_bias, placed, seen.waves, sight)
        if self.attention_dropout.is_active:
            heads = self.attention_dropout.attend(content, seen.keys, seen.values, bias=bias())
        else:
            operands = Operands(content, placed, seen.keys, seen.values, seen.waves[0])
            heads = attend_by_distance(operands, sight.visible, slides=sight.pairs is None, bias=bias)
        output: Tensor = self.output(joined(heads))
        return output

    def _keys_values(self, x: Tensor, waves: Tensor) -> Seen:
        return Seen(self._split(self.key(x)), self._split(self.value(x)), waves)

    def _waves(self, distances: Tensor, *, like: Tensor) -> Tensor:
        """[1, H, U, K]: the projected sinusoid of every distance."""
        waves = self.dropout(sinusoids(distances, self.hidden_dim).to(like.dtype))
        return self._split(self.position(waves[None]))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def _bias(placed: Tensor, waves: Tensor, sight: Sight) -> Tensor:
    """[B, H, T, S], -inf where nothing is to be seen; nothing else of its size outlives it."""
    return _in_place_of_pairs(placed @ waves.transpose(-1, -2), sight).masked_fill(~sight.visible, float("-inf"))


def _in_place_of_pairs(by_distance: Tensor, sight: Sight) -> Tensor:
    """[B, H, T, U] -> [B, H, T, S]."""
    batch, num_heads = by_distance.shape[:2]
    if sight.pairs is not None:
        return by_distance.gather(-1, sight.pairs[:, None].expand(batch, num_heads, -1, -1))
    return relative_shift(by_distance)[..., : sight.visible.shape[-1]]
