"""What layers pass on: the carry of the layer list.

Shapes: B batch, T tokens of a level, D hidden_dim, V vocab_size.
"""

from typing import NamedTuple

from torch import Tensor

from hierlm.nn.inputs import NO_INPUTS, Inputs, with_tokens
from hierlm.nn.report import Finish, Report


class Stream(NamedTuple):
    """The carry: a stack of sequences, the finest saved level first, the sequence being worked on last.

    The first layer receives tokens int64 [B, T] on top; the last one leaves logits [B, T, V] there and nothing below.
    Only the levels travel between pipeline stages: inputs are at hand on each, reports are collected where they arise.
    """

    levels: tuple[Tensor, ...]
    inputs: Inputs = NO_INPUTS  # what the batch says of these rows, by name; `tokens` always
    reports: tuple[Report, ...] = ()  # of the layers so far

    @classmethod
    def of(cls, inputs: Inputs | Tensor) -> "Stream":
        """What enters the first layer; `inputs` may be the tokens alone."""
        named = with_tokens(inputs) if isinstance(inputs, Tensor) else inputs
        return cls((named["tokens"],), named)

    @property
    def hidden(self) -> Tensor:
        """The top of the stack, [B, T_level, D]."""
        return self.levels[-1]

    @property
    def output(self) -> Tensor:
        """What the last layer leaves. ValueError where there are levels below it, which nothing would ever read."""
        if len(self.levels) != 1:
            raise ValueError(
                f"after the last layer {len(self.levels)} levels are left, allowed: 1; a layer has pushed a level that "
                "none behind it pops"
            )
        return self.levels[0]

    def with_levels(self, *levels: Tensor) -> "Stream":
        """The same stream with other levels."""
        return Stream(levels, self.inputs, self.reports)

    def with_hidden(self, hidden: Tensor) -> "Stream":
        """The same stack with another top."""
        return self.with_levels(*self.levels[:-1], hidden)

    def push(self, hidden: Tensor) -> "Stream":
        """Save the top as a finer level and work on `hidden`."""
        return self.with_levels(*self.levels, hidden)

    def pop(self) -> tuple[Tensor, "Stream"]:
        """(the top, the stack below it): the saved finer level becomes the top again."""
        return self.levels[-1], self.with_levels(*self.levels[:-1])

    def with_loss(self, name: str, per_row: Tensor, *, weight: float = 1.0) -> "Stream":
        """Report a loss, float [B], of which training adds the weighted mean over rows to the objective's."""
        return self._with(Report(name, "loss", per_row, weight=weight))

    def with_mean(self, name: str, per_row: Tensor, *, finish: Finish | None = None) -> "Stream":
        """Report a metric whose mean over rows counts: [B], or with `finish` [B, n]."""
        return self._with(Report(name, "mean", per_row, finish=finish))

    def with_sum(self, name: str, per_row: Tensor, *, finish: Finish | None = None) -> "Stream":
        """Report a metric whose sum over rows counts: [B], or with `finish` [B, n]."""
        return self._with(Report(name, "sum", per_row, finish=finish))

    def _with(self, report: Report) -> "Stream":
        return Stream(self.levels, self.inputs, (*self.reports, report))
