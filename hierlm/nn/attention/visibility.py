"""The rules of who sees whom, each with a fused kernel, a mask and the offsets relative attention needs.

Shapes: B batch, H heads, Q queries, S keys, K head_dim; queries [B, H, Q, K], keys and values [B, H, S, K].
The last query always belongs to the newest position, so the same rule serves training (Q = all) and decoding
(Q = what was appended).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn.attention.positions import relative_shift
from hierlm.nn.kernels import prefix_attention
from hierlm.nn.kernels.fused_attention import attend_fused
from hierlm.nn.kernels.prefix_attention import Stairs

_QUERY_BLOCKS = 4  # multiplies 5/8 of all pairs; more blocks save little and each adds up the gradients of its keys
_LEAST_QUERIES = 64


@dataclass(frozen=True)
class Causal:
    """Query i sees keys 0..S-Q+i, or only the newest `window` of them."""

    window: int | None = None

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, Q, K]; memory O(T * window) where there is a window, never O(T * T)."""
        num_queries, num_keys = queries.shape[-2], keys.shape[-2]
        if self.window is not None and num_keys > self.window:
            return _window_attention(queries, keys, values, window=self.window)
        if prefix_attention.suits(queries, keys):
            return _prefix(queries, keys, values, self)
        if num_queries == num_keys:
            return attend_fused(queries, keys, values, is_causal=True)
        return _masked(queries, keys, values, self)

    def mask(self, num_queries: int, num_keys: int, *, device: torch.device) -> Tensor:
        """bool [Q, S], True = visible."""
        ones = torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)
        newest = num_keys - num_queries
        visible = ones.tril(newest)
        return visible if self.window is None else visible & ~ones.tril(newest - self.window)

    def stairs(self, num_queries: int, num_keys: int) -> Stairs:
        """What is seen if no window hides anything."""
        return Stairs(num_keys - num_queries, run=1, rise=1)

    def by_pair(self, by_offset: Tensor, num_keys: int) -> Tensor:
        """[..., Q, offsets of the span] -> [..., Q, S]: for each visible pair what its offset has; else anything.

        The offset is how far the key lies after the query, in neighbours of the finer side: here j - i, so that every
        row is the row before it, moved by one.
        """
        return relative_shift(by_offset)[..., :num_keys]

    def offset_span(self, num_queries: int, num_keys: int) -> range:
        """The offsets of visible pairs."""
        return range(1 - num_keys, 1)


@dataclass(frozen=True)
class OnePerGroup:
    """Query m stands for the m-th `factor` keys (S = groups * factor) and sees its own group and those before."""

    factor: int

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, Q, K]. A kernel given a mask multiplies the hidden pairs too, so most of them are not given to it."""
        if prefix_attention.suits(queries, keys):
            return _prefix(queries, keys, values, self)
        num_queries, num_past = queries.shape[-2], keys.shape[-2] - queries.shape[-2] * self.factor
        size = max(-(-num_queries // _QUERY_BLOCKS), _LEAST_QUERIES)
        blocks = []
        for index, block in enumerate(queries.split(size, dim=-2)):
            num_seen = num_past + (index * size + block.shape[-2]) * self.factor
            blocks.append(_masked(block, keys[..., :num_seen, :], values[..., :num_seen, :], self))
        return torch.cat(blocks, dim=-2) if len(blocks) > 1 else blocks[0]

    def mask(self, num_queries: int, num_keys: int, *, device: torch.device) -> Tensor:
        """bool [Q, S], True = visible."""
        groups = Causal().mask(num_queries, num_keys // self.factor, device=device)
        return groups.repeat_interleave(self.factor, dim=1)

    def stairs(self, num_queries: int, num_keys: int) -> Stairs:
        """How many keys each query sees."""
        return Stairs(num_keys // self.factor - num_queries, run=1, rise=self.factor)

    def by_pair(self, by_offset: Tensor, num_keys: int) -> Tensor:
        """As for `Causal`; the offset is j - m * factor, counted from the first member of the query's own group."""
        num_queries, num_groups = by_offset.shape[-2], num_keys // self.factor
        groups = torch.arange(num_groups - num_queries, num_groups, device=by_offset.device)
        offsets = torch.arange(num_keys, device=by_offset.device)[None, :] - groups[:, None] * self.factor
        return _gathered(by_offset, offsets, span=self.offset_span(num_queries, num_keys))

    def offset_span(self, num_queries: int, num_keys: int) -> range:
        """The offsets of visible pairs."""
        return range(self.factor - num_keys, self.factor)


@dataclass(frozen=True)
class GroupsSoFar:
    """Fine query i, counted from `first`, sees the keys 0..floor(i / factor), one key per group."""

    factor: int
    first: int

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, Q, K]. From position 0 on no mask is needed.

        The positions of one remainder mod `factor` form a plain causal square with the groups, so the remainders
        become query heads that share their keys.
        """
        if prefix_attention.suits(queries, keys):
            return _prefix(queries, keys, values, self)
        if self.first > 0:
            return _masked(queries, keys, values, self)
        (batch, heads, num_queries, head_dim), num_groups = queries.shape, keys.shape[-2]
        padded = F.pad(queries, (0, 0, 0, num_groups * self.factor - num_queries))
        by_remainder = padded.reshape(batch, heads, num_groups, self.factor, head_dim).transpose(2, 3)
        by_remainder = by_remainder.reshape(batch, heads * self.factor, num_groups, head_dim)
        out = attend_fused(by_remainder, keys, values, is_causal=True)
        out = out.reshape(batch, heads, self.factor, num_groups, head_dim).transpose(2, 3)
        return out.reshape(batch, heads, num_groups * self.factor, head_dim)[..., :num_queries, :]

    def mask(self, num_queries: int, num_keys: int, *, device: torch.device) -> Tensor:
        """bool [Q, S], True = visible."""
        group = torch.arange(self.first, self.first + num_queries, device=device) // self.factor
        return torch.arange(num_keys, device=device)[None, :] <= group[:, None]

    def stairs(self, num_queries: int, num_keys: int) -> Stairs:
        """How many keys each query sees."""
        return Stairs(self.first, run=self.factor, rise=1)

    def by_pair(self, by_offset: Tensor, num_keys: int) -> Tensor:
        """As for `Causal`; the offset is j * factor - i."""
        num_queries = by_offset.shape[-2]
        queries = torch.arange(self.first, self.first + num_queries, device=by_offset.device)
        offsets = torch.arange(num_keys, device=by_offset.device)[None, :] * self.factor - queries[:, None]
        return _gathered(by_offset, offsets, span=self.offset_span(num_queries, num_keys))

    def offset_span(self, num_queries: int, num_keys: int) -> range:
        """The offsets of visible pairs."""
        return range(1 - self.first - num_queries, 1)


Rule = Causal | OnePerGroup | GroupsSoFar


def _gathered(by_offset: Tensor, offsets: Tensor, *, span: range) -> Tensor:
    index = offsets.clamp(span.start, span.stop - 1) - span.start
    return by_offset.gather(-1, index.expand(*by_offset.shape[:-2], -1, -1))


def _masked(queries: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
    mask = rule.mask(queries.shape[-2], keys.shape[-2], device=queries.device)
    return attend_fused(queries, keys, values, mask=mask)


def _prefix(queries: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
    stairs = rule.stairs(queries.shape[-2], keys.shape[-2])
    output: Tensor = prefix_attention.attend_to_prefix(queries, keys, values, *stairs)
    return output


def _window_attention(queries: Tensor, keys: Tensor, values: Tensor, *, window: int) -> Tensor:
    num_queries, num_keys = queries.shape[-2], keys.shape[-2]
    if num_queries != num_keys:
        reach = min(num_keys, num_queries + window - 1)
        return _masked(queries, keys[..., -reach:, :], values[..., -reach:, :], Causal(window))
    first = Causal().attend(*(x[..., :window, :] for x in (queries, keys, values)))
    return torch.cat((first, _later_blocks(queries, keys, values, window)), dim=-2)


def _later_blocks(queries: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """Blocks of `window` queries, each against its own and the previous block of keys; block 0 is left out."""
    batch, heads, length, head_dim = queries.shape
    queries, keys, values = (F.pad(x, (0, 0, 0, -length % window)) for x in (queries, keys, values))
    num_blocks = queries.shape[-2] // window - 1

    def pairs(x: Tensor) -> Tensor:
        blocks = x.reshape(batch, heads, num_blocks + 1, window, head_dim)
        both = torch.cat((blocks[:, :, :-1], blocks[:, :, 1:]), dim=-2)
        return both.reshape(batch, heads * num_blocks, 2 * window, head_dim)

    own = queries[..., window:, :].reshape(batch, heads * num_blocks, window, head_dim)
    out = _masked(own, pairs(keys), pairs(values), Causal(window))
    return out.reshape(batch, heads, num_blocks * window, head_dim)[..., : length - window, :]
