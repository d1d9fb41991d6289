"""What a Recurrent Memory Transformer keeps to run its last segments again (2207.06881, section 3).

Shapes: B batch rows (lanes), k segments replayed, L segment_length, m memory tokens, D hidden_dim, T new tokens.
The gradient of a segment's loss reaches k segments back only if those are run again from the memory that stood before
them; both the tokens and that memory are kept here, the memory without gradient.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NO_TOKEN = -1


class ReplayMemory(NamedTuple):
    """The newest k complete segments and the unfinished one; shapes never change."""

    tokens: Tensor  # int64 [B, (k + 1) * L], newest last; NO_TOKEN before the stream began
    starts: Tensor  # [B, k + 1, m, D]: memory before each of the k segments, last that before the unfinished one
    known: Tensor  # int64 [B, k + 1]: 0 where nothing was written yet, and the learned memory holds
    num_unfinished: Tensor  # int64 [B]: tokens of the unfinished segment; rows advance together

    @property
    def depth(self) -> int:
        """k."""
        return self.known.shape[1] - 1

    def resized(self, depth: int) -> "ReplayMemory":
        """The newest `depth` segments, with unknown ones before them where there are fewer."""
        segment_length = self.tokens.shape[1] // (self.depth + 1)
        missing = (depth - self.depth) * segment_length  # a negative padding removes
        age = torch.arange(self.tokens.shape[1], 0, -1, device=self.tokens.device)
        has_start = age <= self.depth * segment_length + self.num_unfinished[:, None]
        return ReplayMemory(
            tokens=F.pad(torch.where(has_start, self.tokens, NO_TOKEN), (missing, 0), value=NO_TOKEN),
            starts=F.pad(self.starts, (0, 0, 0, 0, depth - self.depth, 0)),
            known=F.pad(self.known, (depth - self.depth, 0)),
            num_unfinished=self.num_unfinished,
        )

    def window(self, *, num_tokens: int) -> Tensor:
        """int64 [B, num_tokens]: the newest ones."""
        return self.tokens[:, self.tokens.shape[1] - num_tokens :]

    def start(self, segments_back: int, *, learned: Tensor) -> Tensor:
        """[B, m, D]: the memory before the segment so far back; 0 is the unfinished one, `learned` is [m, D]."""
        index = self.depth - segments_back
        return torch.where(self.known[:, index, None, None] > 0, self.starts[:, index], learned)

    def extended(self, tokens: Tensor, written: list[Tensor], *, num_unfinished: int) -> "ReplayMemory":
        """After `tokens` [B, T], in which segments were completed that wrote each of `written` [B, m, D]."""
        depth = self.depth
        starts = torch.cat((self.starts, *(memory.detach()[:, None] for memory in written)), dim=1)
        known = F.pad(self.known, (0, len(written)), value=1)
        return ReplayMemory(
            tokens=torch.cat((self.tokens, tokens), dim=1)[:, -self.tokens.shape[1] :],
            starts=starts[:, -(depth + 1) :],
            known=known[:, -(depth + 1) :],
            num_unfinished=torch.full_like(self.num_unfinished, num_unfinished),
        )


def empty_replay(
    batch_size: int,
    *,
    depth: int,
    segment_length: int,
    num_memory_tokens: int,
    hidden_dim: int,
    device: torch.device,
    dtype: torch.dtype,
) -> ReplayMemory:
    """The memory of streams that have seen nothing."""
    integers = {"dtype": torch.int64, "device": device}
    return ReplayMemory(
        tokens=torch.full((batch_size, (depth + 1) * segment_length), NO_TOKEN, **integers),
        starts=torch.zeros(batch_size, depth + 1, num_memory_tokens, hidden_dim, device=device, dtype=dtype),
        known=torch.zeros(batch_size, depth + 1, **integers),
        num_unfinished=torch.zeros(batch_size, **integers),
    )


def gradient_passes(*, num_segments: int, depth: int) -> list[bool]:
    """Whether gradient passes from segment w + 1 into segment w, for w = 0 .. num_segments - 2.

    The last segment's loss reaches exactly `depth` segments back. The reference leaves the first boundary always open.
    """
    return [num_segments - 1 - segment <= depth for segment in range(num_segments - 1)]
