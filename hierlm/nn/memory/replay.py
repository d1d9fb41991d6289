"""What a Recurrent Memory Transformer keeps to run its last segments again (2207.06881, section 3).

Shapes: B batch rows (lanes), k segments replayed, L segment_length, m memory tokens, D hidden_dim.
The gradient of a segment's loss reaches k segments back only if those are run again from the memory that stood before
them; both the tokens and that memory are kept here, the memory without gradient.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn.layer import Memory

NO_TOKEN = -1


class ReplayMemory(NamedTuple):
    """The newest k complete segments of each row and its unfinished one; rows need not stand at the same place.

    Shapes do not depend on where rows stand, so nobody has to ask the device. One thing is told by a shape:
    `unfinished` has a single column while every call was a whole number of segments long, and no row can have any.
    """

    tokens: Tensor  # int64 [B, k * L], complete segments, newest last; NO_TOKEN before the stream began
    starts: Tensor  # [B, k + 1, m, D]: memory before each of the k segments, last that before the unfinished one
    known: Tensor  # int64 [B, k + 1]: 0 where nothing was written yet, and the learned memory holds
    unfinished: Tensor  # int64 [B, L], the tokens of the unfinished segment and NO_TOKEN behind; [B, 1]: none at all

    @property
    def depth(self) -> int:
        """k."""
        return self.known.shape[1] - 1

    @property
    def is_even(self) -> bool:
        """Whether every row is known to stand at the beginning of a segment."""
        return self.unfinished.shape[1] == 1

    def resized(self, depth: int, *, segment_length: int) -> "ReplayMemory":
        """The newest `depth` segments, with unknown ones before them where there are fewer."""
        missing = depth - self.depth  # a negative padding removes
        return ReplayMemory(
            tokens=F.pad(self.tokens, (missing * segment_length, 0), value=NO_TOKEN),
            starts=F.pad(self.starts, (0, 0, 0, 0, missing, 0)),
            known=F.pad(self.known, (missing, 0)),
            unfinished=self.unfinished,
        )

    def start(self, segments_back: int, *, learned: Tensor) -> Tensor:
        """[B, m, D]: the memory before the segment so far back; 0 is the unfinished one, `learned` is [m, D]."""
        index = self.depth - segments_back
        return torch.where(self.known[:, index, None, None] > 0, self.starts[:, index], learned)

    def start_of_each(self, segments_back: Tensor, *, learned: Tensor) -> Tensor:
        """[B, m, D]: the same where rows differ in how far back, int64 [B]."""
        index = (self.depth - segments_back)[:, None]
        starts = self.starts.take_along_dim(index[..., None, None], dim=1)[:, 0]
        return torch.where(self.known.gather(1, index)[..., None] > 0, starts, learned)


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
        tokens=torch.full((batch_size, depth * segment_length), NO_TOKEN, **integers),
        starts=torch.zeros(batch_size, depth + 1, num_memory_tokens, hidden_dim, device=device, dtype=dtype),
        known=torch.zeros(batch_size, depth + 1, **integers),
        unfinished=torch.full((batch_size, 1), NO_TOKEN, **integers),
    )


def saved_replay(memory: Memory) -> ReplayMemory:
    """The memory out of a checkpoint, on the CPU.

    Those of 0.1.0 hold, in place of the last, how many tokens of each row are unfinished, int64 [B], the same for all
    rows, and these at the end of `tokens` [B, (k + 1) * L].
    """
    tokens, starts, known, unfinished = memory
    if unfinished.dim() == 2:
        return ReplayMemory(tokens, starts, known, unfinished)
    segment_length = tokens.shape[1] // known.shape[1]
    num_unfinished = int(unfinished.max())
    complete, rest = tokens.split((tokens.shape[1] - num_unfinished, num_unfinished), dim=1)
    if num_unfinished:
        order = (rest == NO_TOKEN).int().argsort(dim=1, stable=True)  # a row that had restarted alone has fewer
        rest = F.pad(rest.gather(1, order), (0, segment_length - num_unfinished), value=NO_TOKEN)
    else:
        rest = torch.full_like(tokens[:, :1], NO_TOKEN)
    kept = (known.shape[1] - 1) * segment_length
    return ReplayMemory(complete[:, complete.shape[1] - kept :], starts, known, rest)


def gradient_passes(*, num_segments: int, depth: int) -> list[bool]:
    """Whether gradient passes from segment w + 1 into segment w, for w = 0 .. num_segments - 2.

    The last segment's loss reaches exactly `depth` segments back. The reference leaves the first boundary always open.
    """
    return [num_segments - 1 - segment <= depth for segment in range(num_segments - 1)]
