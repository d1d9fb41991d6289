"""Attention that sees the recent past token by token and the older past in ever coarser units.

Shapes: B batch, T tokens, D hidden_dim, H heads, K head_dim; n blocks of c queries, L keys gathered for a block.
Every query's past is cut into consecutive ranges, one a scale (`RetinaView.ranges`); scale j is read in units of
`scales[j]` tokens. A block of c neighbouring queries gathers the few units any of them sees, so memory grows with
T * (windows + T / coarsest scale), not with T * T.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.models.contract import Cache, Layer, Memory, StepContext, Stream
from hierlm.nn.attention import Attention, KeyValues
from hierlm.nn.downsampling import Downsample, Downsampling
from hierlm.nn.dropout import take_dropout
from hierlm.nn.feed_forward import FeedForward
from hierlm.nn.initialisation import initialise
from hierlm.nn.normalisation import layer_norm
from hierlm.nn.positions import token_positions
from hierlm.nn.shape import BlockShape


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

    @property
    def block_length(self) -> int:
        """c: about a window of tokens, in whole units of every scale."""
        coarsest = self.scales[-1]
        return max(1, -(-self.windows[0] // coarsest)) * coarsest if self.windows else coarsest


class SeenByScale(NamedTuple):
    """What can be attended to at each scale, and what is pending of the units not whole yet."""

    parts: tuple[KeyValues | None, ...]
    pending: tuple[Tensor, ...]


class RetinaBlock(Layer):
    """x += Attention(LN x) over tokens and over units pooled from LN x; x += FF(LN x)."""

    def __init__(self, *, shape: BlockShape, view: RetinaView, downsampling: Downsampling, kernel_groups: int) -> None:
        super().__init__()
        self.view = view
        self.attention_norm = layer_norm(shape.hidden_dim)
        self.attention = Attention(shape)
        self.pools = nn.ModuleList(
            Downsample(downsampling, hidden_dim=shape.hidden_dim, factor=scale, kernel_groups=kernel_groups)
            for scale in view.scales[1:]
        )
        self.scale_embeddings = nn.ParameterList(torch.zeros(shape.hidden_dim) for _ in view.scales[1:])
        self.feed_forward_norm = layer_norm(shape.hidden_dim)
        self.feed_forward = FeedForward(shape)
        self.dropout = nn.Dropout(shape.dropout)
        initialise(self, residual_scale=shape.residual_scale)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        return self.decode(stream, None)[0], memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        x = stream.hidden
        normed = self.attention_norm(x)
        past = SeenByScale(*cache) if cache else self._nothing(normed)
        seen = self._extended(normed, past)
        first = 0 if past.parts[0] is None else past.parts[0].num_keys
        rule = RetinaRule(self.view, seen.parts, first)
        positions = token_positions(x.shape[1], first=first, device=x.device)
        assert seen.parts[0] is not None
        x = x + self.dropout(self.attention(normed, positions, seen=seen.parts[0], rule=rule))
        x = x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
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
        """[B, H, Q, K]; keys and values are those of scale 0 and already in `parts`."""
        batch, heads, num_queries, head_dim = queries.shape
        length = min(self.view.block_length, num_queries)
        num_blocks = -(-num_queries // length)
        queries = F.pad(queries, (0, 0, 0, num_blocks * length - num_queries))
        gathered_keys, gathered_values, visible = self._gathered(num_blocks, length, num_queries)
        out = F.scaled_dot_product_attention(
            queries.unflatten(2, (num_blocks, length)).transpose(1, 2).flatten(0, 1),
            gathered_keys,
            gathered_values,
            attn_mask=visible.repeat(batch, 1, 1)[:, None],
        )
        out = out.unflatten(0, (batch, num_blocks)).transpose(1, 2)
        return out.reshape(batch, heads, num_blocks * length, head_dim)[:, :, :num_queries]

    def _gathered(self, num_blocks: int, length: int, num_queries: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [B*n, H, L, K] of every block and who sees them, bool [n, c, L]."""
        assert self.parts[0] is not None
        device = self.parts[0].keys.device
        firsts = [self.first + block * length for block in range(num_blocks)]
        lasts = [min(first + length, self.first + num_queries) - 1 for first in firsts]
        tokens = torch.tensor(firsts, device=device)[:, None] + torch.arange(length, device=device)
        keys, values, visible = [], [], []
        for index, (part, (low, high)) in enumerate(zip(self.parts, self.view.ranges_of(tokens), strict=True)):
            assert part is not None
            scale = self.view.scales[index]
            starts = [self.view.ranges(first)[index][0] // scale for first in firsts]
            ends = [self.view.ranges(last)[index][1] // scale for last in lasts]
            width = max(end - start for start, end in zip(starts, ends, strict=True))
            if width == 0:
                continue
            units = torch.tensor(starts, device=device)[:, None] + torch.arange(width, device=device)
            visible.append(
                (units[:, None, :] * scale >= low[:, :, None]) & (units[:, None, :] * scale < high[:, :, None])
            )
            index_of = units.clamp(max=part.num_keys - 1)
            keys.append(part.keys[:, :, index_of].transpose(1, 2).flatten(0, 1))
            values.append(part.values[:, :, index_of].transpose(1, 2).flatten(0, 1))
        return torch.cat(keys, dim=2), torch.cat(values, dim=2), torch.cat(visible, dim=2)
