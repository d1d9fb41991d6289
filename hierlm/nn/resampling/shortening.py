"""From a level to one k times shorter, strictly causally (Hourglass, 2110.13711, sections 2.1-2.2 and 2.4).

Shapes: B batch, T fine positions, G = ceil(T / k) groups, D hidden_dim.
The fine sequence is shifted right by k - 1: group m then holds the positions m*k - k + 1 .. m*k, all of them past or
present for every position that will read it. Of the shifted sequence (length T + k - 1) exactly G groups are complete.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hierlm.nn.attention.multi_head import KeyValues
from hierlm.nn.attention.offset_attention import make_attention
from hierlm.nn.attention.positions import token_positions
from hierlm.nn.attention.visibility import OnePerGroup
from hierlm.nn.basic.dropout import Dropout, site_or_none, take_dropout
from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.basic.initialisation import initialise
from hierlm.nn.basic.normalisation import make_norm
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.resampling.shorten_factor import ShortenFactor
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream

Pooling = Literal["average", "linear"]
Shortening = Literal["average", "linear", "attention"]


class AveragePool(nn.Module):
    """[B, G*k, D] -> [B, G, D], the mean of each k neighbours."""

    def forward(self, x: Tensor, *, factor: int) -> Tensor:
        return x.unflatten(1, (-1, factor)).mean(dim=2)


class LinearPool(nn.Module):
    """[B, G*k, D] -> [B, G, D], a linear map of the k neighbours put side by side."""

    def __init__(self, *, hidden_dim: int, factor: int) -> None:
        super().__init__()
        self.project = Linear(factor * hidden_dim, hidden_dim)

    def forward(self, x: Tensor, *, factor: int) -> Tensor:
        return self.project(x.unflatten(1, (-1, factor)).flatten(2))


def make_pool(kind: Pooling, *, hidden_dim: int, factor: int) -> nn.Module:
    """The parameter-free or the learned pooling."""
    return AveragePool() if kind == "average" else LinearPool(hidden_dim=hidden_dim, factor=factor)


class Progress(NamedTuple):
    """Where decoding stands: fine vectors of the unfinished group, and what attention has seen."""

    pending: Tensor  # [B, < k, D]
    seen: KeyValues | None


class Shorten(Layer):
    """Pushes the pooled groups on the stream; the fine level stays below for `Upsample`."""

    num_writes = 2
    """To the residual stream."""

    def __init__(self, *, factor: int, shape: BlockShape, kind: Shortening, query: Pooling, stride: int) -> None:
        super().__init__()
        self.shorten_factor = ShortenFactor(factor)
        is_attention = kind == "attention"
        pooling: Pooling = query if kind == "attention" else kind
        self.pool = make_pool(pooling, hidden_dim=shape.hidden_dim, factor=factor)
        self.resample = ShorteningAttention(shape=shape, stride=stride) if is_attention else None
        self.dropout = site_or_none(shape.dropout if kind == "linear" else None)
        initialise(self, residual_scale=shape.residual_scale, scheme=shape.scheme)

    @property
    def factor(self) -> int:
        """k of this pass."""
        return self.shorten_factor.now(training=self.training)

    @property
    def drawn_shape(self) -> object:
        return self.factor

    @property
    def shift(self) -> int:
        """Zero vectors put in front: one less and a group would hold a position that its first reader may not see."""
        return self.factor - 1

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        pooled, _ = self._advance(stream.hidden, self._start(stream.hidden))
        return stream.push(pooled), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        progress = self._start(stream.hidden) if cache is None else cache[0]
        pooled, progress = self._advance(stream.hidden, progress)
        return stream.push(pooled), (progress,)

    def _start(self, fine: Tensor) -> Progress:
        zeros = fine.new_zeros(fine.shape[0], self.shift, fine.shape[2])
        return Progress(zeros, seen=None)

    def _advance(self, fine: Tensor, progress: Progress) -> tuple[Tensor, Progress]:
        shifted = torch.cat((progress.pending, fine), dim=1)
        num_new = shifted.shape[1] // self.factor
        complete = shifted[:, : num_new * self.factor]
        seen = progress.seen
        if num_new == 0:
            pooled = complete
        elif self.resample is None:
            pooled = self.dropout(self.pool(complete, factor=self.factor))
        else:
            pooled, seen = self.resample(complete, self.pool, factor=self.factor, past=seen)
        return pooled, Progress(shifted[:, num_new * self.factor :], seen)

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
        self.shorten_factor.begin_step(context)


class ShorteningAttention(nn.Module):
    """y = q + Attn(q, g, g); y += FF(LN y), where g = LN(shifted x) and q = LN(Pool(g)) (section 2.1)."""

    def __init__(self, *, shape: BlockShape, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.input_norm = make_norm(shape.hidden_dim, shape.norm)
        self.query_norm = make_norm(shape.hidden_dim, shape.norm)
        self.attention = make_attention(shape)
        self.feed_forward_norm = make_norm(shape.hidden_dim, shape.norm)
        self.feed_forward = FeedForward(shape)
        self.dropout = Dropout(shape.dropout)

    def forward(
        self, shifted: Tensor, pool: nn.Module, *, factor: int, past: KeyValues | None
    ) -> tuple[Tensor, KeyValues]:
        """shifted [B, G*k, D], whole groups -> [B, G, D] and everything seen so far."""
        normed = self.input_norm(shifted)
        queries = self.query_norm(pool(normed, factor=factor))
        first = 0 if past is None else past.num_keys
        key_positions = token_positions(shifted.shape[1], first=first, stride=self.stride, device=shifted.device)
        query_positions = key_positions[::factor]
        seen = self.attention.key_values(normed, key_positions, past=past)
        y = queries + self.dropout(
            self.attention(queries, query_positions, seen=seen, rule=OnePerGroup(factor), stride=self.stride)
        )
        return y + self.dropout(self.feed_forward(self.feed_forward_norm(y))), seen
