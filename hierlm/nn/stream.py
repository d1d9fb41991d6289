"""What layers pass on: the carry of the layer list.

Shapes: B batch, T tokens of a level, D hidden_dim, V vocab_size.
"""

from typing import NamedTuple

from torch import Tensor


class Stream(NamedTuple):
    """The carry: a stack of sequences, the finest saved level first, the sequence being worked on last.

    The first layer receives tokens int64 [B, T] on top; the last one leaves logits [B, T, V] there.
    """

    levels: tuple[Tensor, ...]

    @property
    def hidden(self) -> Tensor:
        """The top of the stack, [B, T_level, D]."""
        return self.levels[-1]

    @property
    def penalty(self) -> Tensor | None:
        """What training adds to the token losses, nats [B, T]: after the last layer, levels left below the logits."""
        below = [level[..., 0].float() for level in self.levels[:-1]]
        return sum(below[1:], start=below[0]) if below else None

    def with_hidden(self, hidden: Tensor) -> "Stream":
        """The same stack with another top."""
        return Stream((*self.levels[:-1], hidden))

    def push(self, hidden: Tensor) -> "Stream":
        """Save the top as a finer level and work on `hidden`."""
        return Stream((*self.levels, hidden))

    def pop(self) -> tuple[Tensor, "Stream"]:
        """(the top, the stack below it): the saved finer level becomes the top again."""
        return self.levels[-1], Stream(self.levels[:-1])
