"""From a shortened level back to the finer one below it (Hourglass, 2110.13711, section 2.3).

Shapes: B batch, T fine positions, G = ceil(T / k) groups, D hidden_dim. Fine position i reads groups up to
floor(i / k); the newest of them ends at fine position floor(i / k) * k <= i.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from hierlm.nn.attention.multi_head import KeyValues
from hierlm.nn.attention.offset_attention import make_attention
from hierlm.nn.attention.positions import token_positions
from hierlm.nn.attention.visibility import GroupsSoFar
from hierlm.nn.basic.dropout import Dropout, site_or_none, take_dropout
from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.basic.initialisation import initialise
from hierlm.nn.basic.normalisation import make_norm
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.resampling.shorten_factor import ShortenFactor
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream

Expansion = Literal["repeat", "linear"]
Upsampling = Literal["repeat", "linear", "attention"]
UpsamplingQuery = Literal["saved", "repeat", "linear"]


class Repeat(nn.Module):
    """[B, G, D] -> [B, G*k, D], each vector k times."""

    def forward(self, x: Tensor, *, factor: int) -> Tensor:
        return x.repeat_interleave(factor, dim=1)


class LinearExpansion(nn.Module):
    """[B, G, D] -> [B, G*k, D], another linear map for each of the k places."""

    def __init__(self, *, hidden_dim: int, factor: int) -> None:
        super().__init__()
        self.project = Linear(hidden_dim, factor * hidden_dim)

    def forward(self, x: Tensor, *, factor: int) -> Tensor:
        return self.project(x).unflatten(2, (factor, -1)).flatten(1, 2)


def make_expansion(kind: Expansion, *, hidden_dim: int, factor: int) -> nn.Module:
    """The parameter-free or the learned expansion."""
    return Repeat() if kind == "repeat" else LinearExpansion(hidden_dim=hidden_dim, factor=factor)


class Progress(NamedTuple):
    """Where decoding stands."""

    num_fine: int
    unread: Tensor | None  # [B, < k, D]: expanded places of the newest group that no fine position has read yet
    seen: KeyValues | None


_NOTHING = Progress(num_fine=0, unread=None, seen=None)


class Upsample(Layer):
    """Pops the coarse level and adds LN(upsampled) to the fine one saved below it."""

    num_writes = 2
    """To the residual stream."""

    def __init__(
        self, *, factor: int, shape: BlockShape, kind: Upsampling, query: UpsamplingQuery, stride: int
    ) -> None:
        super().__init__()
        self.shorten_factor = ShortenFactor(factor)
        expansion = query if kind == "attention" else kind
        self.expand = (
            None if expansion == "saved" else make_expansion(expansion, hidden_dim=shape.hidden_dim, factor=factor)
        )
        self.resample = UpsamplingAttention(shape=shape, stride=stride) if kind == "attention" else None
        self.norm = make_norm(shape.hidden_dim, shape.norm)
        self.dropout = site_or_none(shape.dropout if kind == "linear" else None)
        initialise(self, residual_scale=shape.residual_scale, scheme=shape.scheme)

    @property
    def factor(self) -> int:
        """k of this pass."""
        return self.shorten_factor.now(training=self.training)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        coarse, below = stream.pop()
        hidden, _ = self._advance(coarse, below.hidden, _NOTHING)
        return below.with_hidden(hidden), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        coarse, below = stream.pop()
        progress = _NOTHING if cache is None else cache[0]
        if below.hidden.shape[1] == 0:
            return below, (progress,)
        hidden, progress = self._advance(coarse, below.hidden, progress)
        return below.with_hidden(hidden), (progress,)

    def _advance(self, coarse: Tensor, fine: Tensor, progress: Progress) -> tuple[Tensor, Progress]:
        if self.resample is None:
            read, unread = self._expanded(coarse, progress.unread, num_fine=fine.shape[1])
            upsampled, seen = self.dropout(read), None
        else:
            normed = self.resample.input_norm(coarse)
            read, unread = self._expanded(normed, progress.unread, num_fine=fine.shape[1])
            upsampled, seen = self.resample(normed, fine, read, factor=self.factor, progress=progress)
        return fine + self.norm(upsampled), Progress(progress.num_fine + fine.shape[1], unread, seen)

    def _expanded(self, coarse: Tensor, unread: Tensor | None, *, num_fine: int) -> tuple[Tensor, Tensor | None]:
        """(one vector for each new fine position, what the positions after them will read)."""
        if self.expand is None:
            return coarse.new_zeros(1, 1, coarse.shape[2]), None
        places: Tensor = self.expand(coarse, factor=self.factor)
        if unread is not None:
            places = torch.cat((unread, places), dim=1)
        return places[:, :num_fine], places[:, num_fine:]

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
        self.shorten_factor.begin_step(context)


class UpsamplingAttention(nn.Module):
    """y = q + Attn(q, g, g); y += FF(LN y), where g = LN(coarse) and q = x + LN(U(g)) (section 2.3).

    With `saved` as query U is 0, as in the reference code, so the norm contributes its bias alone.
    """

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
        self, coarse: Tensor, fine: Tensor, expanded: Tensor, *, factor: int, progress: Progress
    ) -> tuple[Tensor, KeyValues]:
        """coarse [B, G, D] normalised, fine [B, T, D], expanded [B or 1, T or 1, D] -> [B, T, D] and all seen."""
        queries = fine + self.query_norm(expanded)
        past, first = progress.seen, progress.num_fine
        num_past = 0 if past is None else past.num_keys
        coarse_positions = token_positions(
            coarse.shape[1], first=num_past, stride=self.stride * factor, device=coarse.device
        )
        positions = token_positions(fine.shape[1], first=first, stride=self.stride, device=fine.device)
        seen = self.attention.key_values(coarse, coarse_positions, past=past)
        rule = GroupsSoFar(factor, first)
        y = queries + self.dropout(self.attention(queries, positions, seen=seen, rule=rule, stride=self.stride))
        return y + self.dropout(self.feed_forward(self.feed_forward_norm(y))), seen
