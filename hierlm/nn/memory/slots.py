"""What a Transformer-XL layer remembers: the inputs it had, and which tokens they were.

Shapes: B batch rows (lanes), M slots, D hidden_dim, T new tokens.
Each slot knows the index of its token in the stream, so that a memory that was kept while the stream went on still has
true distances, and a row whose stream starts anew has empty slots while its neighbours have full ones.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EMPTY = -1


class SegmentMemory(NamedTuple):
    """The last inputs of one layer, oldest first; shapes never change, so empty slots are marked, not left out."""

    hidden: Tensor  # [B, M, D], without gradient
    positions: Tensor  # int64 [B, M]: index of the token in its stream; EMPTY = nothing there
    clock: Tensor  # int64 [B]: index of the next token of the stream

    @property
    def length(self) -> int:
        """M."""
        return self.positions.shape[1]

    @property
    def filled(self) -> Tensor:
        """bool [B, M]: slots that hold a token."""
        return self.positions != EMPTY

    @property
    def ages(self) -> Tensor:
        """int64 [B, M]: how many tokens the next token lies after each slot, at least 1; 1 for empty slots."""
        return torch.where(self.filled, self.clock[:, None] - self.positions, 1)

    def resized(self, length: int) -> "SegmentMemory":
        """The newest `length` slots, with empty ones before them where there are fewer."""
        missing = max(length - self.length, 0)
        first = max(self.length - length, 0)
        hidden = F.pad(self.hidden[:, first:], (0, 0, missing, 0))
        positions = F.pad(self.positions[:, first:], (missing, 0), value=EMPTY)
        return SegmentMemory(hidden, positions, self.clock)

    def with_segment(self, inputs: Tensor, *, length: int) -> "SegmentMemory":
        """The newest `length` slots after `inputs` [B, T, D]; no gradient flows into them (1901.02860, section 3.2)."""
        num_tokens = inputs.shape[1]
        new = self.clock[:, None] + torch.arange(num_tokens, device=inputs.device)
        hidden = torch.cat((self.hidden, inputs.detach()), dim=1)
        positions = torch.cat((self.positions, new), dim=1)
        return SegmentMemory(hidden, positions, self.clock + num_tokens).resized(length)

    def after(self, num_tokens: int) -> "SegmentMemory":
        """The same slots, grown older by `num_tokens`."""
        return self._replace(clock=self.clock + num_tokens)


def empty_memory(
    batch_size: int, *, length: int, hidden_dim: int, device: torch.device, dtype: torch.dtype
) -> SegmentMemory:
    """The memory of streams that have seen nothing."""
    return SegmentMemory(
        hidden=torch.zeros(batch_size, length, hidden_dim, device=device, dtype=dtype),
        positions=torch.full((batch_size, length), EMPTY, dtype=torch.int64, device=device),
        clock=torch.zeros(batch_size, dtype=torch.int64, device=device),
    )
