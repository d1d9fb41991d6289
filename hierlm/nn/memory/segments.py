"""Which segments one call of a Recurrent Memory Transformer runs, from which memory, and what is kept of them.

Shapes: B batch rows (lanes), T new tokens, k segments replayed, L segment_length, m memory tokens, D hidden_dim,
N segments run. They are those replayed, then those with new tokens; the last one of every row is run last, so gradient
stops at the same segment in all rows. What cannot be known without asking the device, where a row stands in its
unfinished segment, decides no shape.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn.memory.replay import NO_TOKEN, ReplayMemory


class Segments(Protocol):
    """Of one call."""

    tokens: list[Tensor]  # int64 [B, n] of each segment, NO_TOKEN where a row has none

    def start(self, index: int, *, learned: Tensor) -> Tensor | None:
        """[B, m, D]: the memory kept from before a segment, for rows that have run none earlier; None: all have."""

    def new_hidden(self, hidden: list[Tensor]) -> Tensor:
        """[B, n, D] of each segment -> [B, T, D]: that of the new tokens."""

    def kept(self, written: list[Tensor]) -> ReplayMemory:
        """The memory after the call, of the [B, m, D] that each segment wrote."""


class EvenSegments:
    """All rows begin a segment: the segments of one are those of all, and only the last may be short."""

    def __init__(self, past: ReplayMemory, tokens: Tensor, *, segment_length: int, replays: bool) -> None:
        self._past, self._new, self._length = past, tokens, segment_length
        num_new = -(-tokens.shape[1] // segment_length)
        self._num_replayed = max(past.depth - (num_new - 1), 0) if replays else 0
        earlier = past.tokens[:, past.tokens.shape[1] - self._num_replayed * segment_length :]
        self.tokens = list(torch.cat((earlier, tokens), dim=1).split(segment_length, dim=1))

    def start(self, index: int, *, learned: Tensor) -> Tensor | None:
        back = self._num_replayed - index
        return None if back < 0 else self._past.start(back, learned=learned)

    def new_hidden(self, hidden: list[Tensor]) -> Tensor:
        return torch.cat(hidden[self._num_replayed :], dim=1)

    def kept(self, written: list[Tensor]) -> ReplayMemory:
        past, depth = self._past, self._past.depth
        num_complete, num_unfinished = divmod(self._new.shape[1], self._length)
        complete, rest = self._new.split((num_complete * self._length, num_unfinished), dim=1)
        new = [memory.detach()[:, None] for memory in written[self._num_replayed :][:num_complete]]
        return ReplayMemory(
            tokens=torch.cat((past.tokens, complete), dim=1)[:, complete.shape[1] :],
            starts=torch.cat((past.starts, *new), dim=1)[:, -(depth + 1) :],
            known=F.pad(past.known, (0, num_complete), value=1)[:, -(depth + 1) :],
            unfinished=F.pad(rest, (0, self._length - num_unfinished), value=NO_TOKEN)
            if num_unfinished
            else past.unfinished,
        )


class UnevenSegments:
    """Each row begins somewhere in a segment. There is room for the most segments a row may have; all are whole."""

    def __init__(self, past: ReplayMemory, tokens: Tensor, *, segment_length: int) -> None:
        self._past, self._new, self._length = past, tokens, segment_length
        self._fewest = -(-tokens.shape[1] // segment_length)
        self._most = -(-(segment_length - 1 + tokens.shape[1]) // segment_length)
        self._num_segments = max(past.depth + 1, self._most)
        self._num_unfinished = (past.unfinished != NO_TOKEN).sum(dim=1)
        self._num_tokens = self._num_unfinished + tokens.shape[1]
        # of each row, the first segment with new tokens: those before it are replayed
        self._first_new = self._num_segments - (self._num_tokens + segment_length - 1) // segment_length
        self._text = F.pad(torch.cat((past.tokens, past.unfinished, tokens), dim=1), (0, 1), value=NO_TOKEN)
        self.tokens = list(self._run_again_and_new().split(segment_length, dim=1))

    def start(self, index: int, *, learned: Tensor) -> Tensor | None:
        if index > self._num_segments - self._fewest:
            return None
        back = (self._first_new - index).clamp(0, self._past.depth)
        return self._past.start_of_each(back, learned=learned)

    def new_hidden(self, hidden: list[Tensor]) -> Tensor:
        earliest = self._num_segments - self._most
        joined = torch.cat(hidden[earliest:], dim=1)
        first = (self._first_new - earliest) * self._length + self._num_unfinished
        return joined.take_along_dim(_from(first, self._new.shape[1])[..., None], dim=1)

    def kept(self, written: list[Tensor]) -> ReplayMemory:
        past, length, depth = self._past, self._length, self._past.depth
        num_complete = self._num_tokens // length
        place = _from(
            num_complete, depth + 1
        )  # among those kept before, then those written by segments with new tokens
        is_new = place > depth
        memories = torch.cat((past.starts, torch.stack([memory.detach() for memory in written], dim=1)), dim=1)
        where = torch.where(is_new, place + self._first_new[:, None], place)
        return ReplayMemory(
            tokens=self._text_from(num_complete * length, depth * length),
            starts=memories.take_along_dim(where[..., None, None], dim=1),
            known=torch.where(is_new, 1, past.known.gather(1, place.clamp(max=depth))),
            unfinished=self._text_from((num_complete + depth) * length, length),
        )

    def _run_again_and_new(self) -> Tensor:
        """int64 [B, N L]. No segment before those of a long call is wanted where a row has room for one."""
        length, depth = self._length, self._past.depth
        first = (depth - self._first_new) * length
        tokens = self._text_from(first, self._num_segments * length)
        beyond_reach = (self._num_segments - 1 - depth) * length
        is_past = _from(first, beyond_reach) < depth * length
        return torch.cat((tokens[:, :beyond_reach].masked_fill(is_past, NO_TOKEN), tokens[:, beyond_reach:]), dim=1)

    def _text_from(self, first: Tensor, num_tokens: int) -> Tensor:
        """int64 [B, n]: each row's complete segments, unfinished one and new tokens, from the place `first` [B] on."""
        place, before_new = _from(first, num_tokens), self._past.tokens.shape[1] + self._num_unfinished[:, None]
        gap = self._length - self._num_unfinished[:, None]  # between the unfinished segment's tokens and the new ones
        is_there = (place >= 0) & (place < before_new + self._new.shape[1])
        column = torch.where(place < before_new, place, place + gap)
        return self._text.gather(1, torch.where(is_there, column, self._text.shape[1] - 1))


def _from(first: Tensor, count: int) -> Tensor:
    """int64 [B, count]: first, first + 1, ..."""
    return first[:, None] + torch.arange(count, device=first.device)
