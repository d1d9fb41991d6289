"""Attention that sees the recent past token by token and the older past in ever coarser units.

Shapes: B batch, T tokens, D hidden_dim, H heads, K head_dim; n blocks of c queries, L keys gathered for a block.
Every query's past is cut into consecutive ranges, one a scale (`RetinaView.ranges`); scale j is read in units of
`scales[j]` tokens. A block of c neighbouring queries gathers the L units any of them sees. With c as large as what one
query sees, L is at most about 2c: the gathered keys are a few times the T tokens, the mask is T * L bits shared by all
rows and heads, and nothing grows with T * T but the coarsest scale's T * T / scale.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.attention.multi_head import Attention, KeyValues
from hierlm.nn.attention.positions import token_positions
from hierlm.nn.basic.dropout import Dropout, take_dropout
from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.basic.initialisation import initialise
from hierlm.nn.basic.normalisation import make_norm
from hierlm.nn.basic.residual import entering, leaving
from hierlm.nn.kernels.attend import attend_under
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.resampling.downsampling import Downsample, Downsampling
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream


@dataclass(frozen=True)
class RetinaView:
    """`windows[j]` = units of scale j that a query sees before the next coarser scale takes over; the last has none."""

    scales: tuple[int, ...]
    windows: tuple[int, ...]

    def ranges(self, token: int) -> list[tuple[int, int]]:
        """Tokens [low, high) read at each scale by the query at `token`; together exactly [0, token]."""
        ranges, high = [], token + 1
        for scale, window, coarser in zip(self.scales, self.windows, self.scales[1:], strict=False):
            low = max(0, (high - window * scale) // coarser * coarser)
            ranges.append((low, high))
            high = low
        return [*ranges, (0, high)]

    def ranges_of(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The same for int64 tokens of any shape."""
        ranges, high = [], tokens + 1
        for scale, window, coarser in zip(self.scales, self.windows, self.scales[1:], strict=False):
            low = ((high - window * scale).div(coarser, rounding_mode="floor") * coarser).clamp(min=0)
            ranges.append((low, high))
            high = low
        return [*ranges, (torch.zeros_like(high), high)]

    def block_length(self, num_tokens: int) -> int:
        """c: about as many queries as the last of `num_tokens` tokens sees units, in whole units of every scale."""
        coarsest = self.scales[-1]
        num_seen = sum(self.windows) + -(-num_tokens // coarsest)
        return -(-num_seen // coarsest) * coarsest


class SeenByScale(NamedTuple):
    """What can be attended to at each scale, and what is pending of the units not whole yet."""

    parts: tuple[KeyValues | None, ...]
    pending: tuple[Tensor, ...]


class RetinaBlock(Layer):
    """x += Attention(N x) over tokens and over units pooled from N x; x += FF(N x); in other orders from x itself."""

    num_writes = 2
    """To the residual stream."""

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"scale_embeddings": "embedding"}

    def __init__(self, *, shape: BlockShape, view: RetinaView, downsampling: Downsampling, kernel_groups: int) -> None:
        super().__init__()
        self.view, self.order = view, shape.order
        self.attention_norm = make_norm(shape.hidden_dim, shape.norm)
        self.attention = Attention(shape)
        self.pools = nn.ModuleList(
            Downsample(downsampling, hidden_dim=shape.hidden_dim, factor=scale, kernel_groups=kernel_groups)
            for scale in view.scales[1:]
        )
        self.scale_embeddings = nn.ParameterList(torch.zeros(shape.hidden_dim) for _ in view.scales[1:])
        self.feed_forward_norm = make_norm(shape.hidden_dim, shape.norm)
        self.feed_forward = FeedForward(shape)
        self.dropout = Dropout(shape.dropout)
        initialise(self, residual_scale=shape.residual_scale, scheme=shape.scheme)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        return self.decode(stream, None)[0], memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        x = stream.hidden
        normed = entering(x, self.attention_norm, self.order)
        past = SeenByScale(*cache) if cache else self._nothing(normed)
        seen = self._extended(normed, past)
        first = 0 if past.parts[0] is None else past.parts[0].num_keys
        rule = RetinaRule(self.view, seen.parts, first)
        positions = token_positions(x.shape[1], first=first, device=x.device)
        assert seen.parts[0] is not None
        mixed = self.attention(normed, positions, seen=seen.parts[0], rule=rule)
        x = leaving(x, self.dropout(mixed), self.attention_norm, self.order)
        added = self.feed_forward(entering(x, self.feed_forward_norm, self.order))
        x = leaving(x, self.dropout(added), self.feed_forward_norm, self.order)
        return stream.with_hidden(x), seen

    def _nothing(self, normed: Tensor) -> SeenByScale:
        return SeenByScale((None,) * len(self.view.scales), tuple(pool.start(normed) for pool in self.pools))

    def _extended(self, normed: Tensor, past: SeenByScale) -> SeenByScale:
        """New tokens, and the units they complete; a unit stands at its last token."""
        parts, pending = [self._placed(normed, 1, past.parts[0])], []
        layers = zip(self.pools, self.scale_embeddings, self.view.scales[1:], strict=True)
        for index, (pool, embedding, scale) in enumerate(layers):
            units, left = pool(normed, past.pending[index])
            parts.append(self._placed(units + embedding, scale, past.parts[index + 1]))
            pending.append(left)
        return SeenByScale(tuple(parts), tuple(pending))

    def _placed(self, units: Tensor, scale: int, past: KeyValues | None) -> KeyValues:
        first = 0 if past is None else past.num_keys
        positions = token_positions(units.shape[1], first=first, stride=scale, device=units.device) + (scale - 1)
        return self.attention.key_values(units, positions, past=past)

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)


@dataclass(frozen=True)
class RetinaRule:
    """Queries from token `first` on, each over its own ranges of `parts`."""

    view: RetinaView
    parts: tuple[KeyValues | None, ...]
    first: int

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, Q, K]; keys and values are those of scale 0 and already in `parts`. Rows count as heads: one mask."""
        batch, heads, num_queries, head_dim = queries.shape
        length = min(self.view.block_length(self.first + num_queries), num_queries)
        num_blocks = -(-num_queries // length)
        queries = F.pad(queries, (0, 0, 0, num_blocks * length - num_queries))
        units, visible = self._units(num_blocks, length, num_queries)
        out = attend_under(
            queries.reshape(batch * heads, num_blocks, length, head_dim).transpose(0, 1),
            self._gathered("keys", units),
            self._gathered("values", units),
            mask=visible[:, None],
        )
        return out.transpose(0, 1).reshape(batch, heads, num_blocks * length, head_dim)[:, :, :num_queries]

    def _gathered(self, name: str, units: Tensor) -> Tensor:
        """The keys or values [n, B*H, L, K], or fewer heads, of `units` int64 [n, L], counted through all scales."""
        all_units = torch.cat([getattr(part, name) for part in self.parts], dim=2).flatten(0, 1)
        return all_units[:, units].transpose(0, 1)

    def _units(self, num_blocks: int, length: int, num_queries: int) -> tuple[Tensor, Tensor]:
        """The units of all scales that a block reads, int64 [n, L], and who sees them, bool [n, c, L]."""
        assert self.parts[0] is not None
        device = self.parts[0].keys.device
        firsts = [self.first + block * length for block in range(num_blocks)]
        lasts = [min(first + length, self.first + num_queries) - 1 for first in firsts]
        tokens = torch.tensor(firsts, device=device)[:, None] + torch.arange(length, device=device)
        seen = self.view.ranges_of(tokens)
        indices, visible, num_before = [], [], 0
        for index, (scale, part, (low, high)) in enumerate(zip(self.view.scales, self.parts, seen, strict=True)):
            assert part is not None
            starts = [self.view.ranges(first)[index][0] // scale for first in firsts]
            ends = [self.view.ranges(last)[index][1] // scale for last in lasts]
            width = max(end - start for start, end in zip(starts, ends, strict=True))
            units = torch.tensor(starts, device=device)[:, None] + torch.arange(width, device=device)
            reach = units[:, None, :] * scale
            visible.append((reach >= low[:, :, None]) & (reach < high[:, :, None]))
            indices.append(num_before + units.clamp(max=max(part.num_keys - 1, 0)))
            num_before += part.num_keys
        return torch.cat(indices, dim=1), torch.cat(visible, dim=2)
