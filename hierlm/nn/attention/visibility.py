"""The rules of who sees whom, each with what the kernels are told, a mask, and the offsets relative attention needs.

Shapes: B batch, H heads, Q queries, S keys, K head_dim; queries [B, H, Q, K], keys and values [B, H, S, K].
The last query always belongs to the newest position, so the same rule serves training (Q = all) and decoding
(Q = what was appended).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hierlm.nn.attention.positions import relative_shift
from hierlm.nn.kernels.attend import Prefixes, attend, attend_all, visible_keys


class _InSteps:
    """What follows from the number of keys that each query sees."""

    window: int | None = None

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, Q, K]."""
        sees = self.prefixes(queries.shape[-2], keys.shape[-2])
        return attend(queries, keys, values, sees=sees, window=self.window)

    def mask(self, num_queries: int, num_keys: int, *, device: torch.device) -> Tensor:
        """bool [Q, S], True = visible."""
        sees = self.prefixes(num_queries, num_keys)
        return visible_keys(sees, num_queries, num_keys, window=self.window, device=device)

    def prefixes(self, num_queries: int, num_keys: int) -> Prefixes:
        """What is seen if no window hides anything."""
        raise NotImplementedError


@dataclass(frozen=True)
class Causal(_InSteps):
    """Query i sees keys 0..S-Q+i, or only the newest `window` of them."""

    window: int | None = None

    def prefixes(self, num_queries: int, num_keys: int) -> Prefixes:
        """What is seen if no window hides anything."""
        return Prefixes(num_keys - num_queries, run=1, rise=1)

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
class OnePerGroup(_InSteps):
    """Query m stands for the m-th `factor` keys (S = groups * factor) and sees its own group and those before."""

    factor: int

    def prefixes(self, num_queries: int, num_keys: int) -> Prefixes:
        """How many keys each query sees."""
        return Prefixes(num_keys // self.factor - num_queries, run=1, rise=self.factor)

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
class GroupsSoFar(_InSteps):
    """Fine query i, counted from `first`, sees the keys 0..floor(i / factor), one key per group."""

    factor: int
    first: int

    def prefixes(self, num_queries: int, num_keys: int) -> Prefixes:
        """How many keys each query sees."""
        return Prefixes(self.first, run=self.factor, rise=1)

    def by_pair(self, by_offset: Tensor, num_keys: int) -> Tensor:
        """As for `Causal`; the offset is j * factor - i."""
        num_queries = by_offset.shape[-2]
        queries = torch.arange(self.first, self.first + num_queries, device=by_offset.device)
        offsets = torch.arange(num_keys, device=by_offset.device)[None, :] * self.factor - queries[:, None]
        return _gathered(by_offset, offsets, span=self.offset_span(num_queries, num_keys))

    def offset_span(self, num_queries: int, num_keys: int) -> range:
        """The offsets of visible pairs."""
        return range(1 - self.first - num_queries, 1)


@dataclass(frozen=True)
class All:
    """Every query sees every key, those behind it too: an encoder's. There is nothing to decode step by step."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, Q, K]."""
        return attend_all(queries, keys, values)

    def mask(self, num_queries: int, num_keys: int, *, device: torch.device) -> Tensor:
        """bool [Q, S], True = visible."""
        return torch.ones(num_queries, num_keys, dtype=torch.bool, device=device)

    def by_pair(self, by_offset: Tensor, num_keys: int) -> Tensor:
        """As for `Causal`; the offset is j - i."""
        queries = torch.arange(by_offset.shape[-2], device=by_offset.device)
        offsets = torch.arange(num_keys, device=by_offset.device)[None, :] - queries[:, None]
        return _gathered(by_offset, offsets, span=self.offset_span(len(queries), num_keys))

    def offset_span(self, num_queries: int, num_keys: int) -> range:
        """The offsets of visible pairs."""
        return range(1 - num_queries, num_keys)


Rule = Causal | OnePerGroup | GroupsSoFar | All


def _gathered(by_offset: Tensor, offsets: Tensor, *, span: range) -> Tensor:
    index = offsets.clamp(span.start, span.stop - 1) - span.start
    return by_offset.gather(-1, index.expand(*by_offset.shape[:-2], -1, -1))
