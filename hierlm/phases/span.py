"""Phases laid end to end: how many steps and tokens have been made, across every change of the batch."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

from hierlm.phases.config import PhaseConfig


class Span:
    """Steps and tokens of some phases one after another, counted from the first; tokens are those of all ranks."""

    def __init__(self, phases: Sequence[PhaseConfig]) -> None:
        assert phases
        self.phases = tuple(phases)
        lengths = [phase.num_steps for phase in self.phases]
        self.starts = (0, *accumulate(lengths))
        """Of each phase, in steps; last, where the span ends."""
        self._tokens = (0, *accumulate(n * p.tokens_per_step for n, p in zip(lengths, self.phases, strict=True)))

    @property
    def num_steps(self) -> int:
        return self.starts[-1]

    @property
    def num_tokens(self) -> int:
        return self._tokens[-1]

    def phase_at(self, step: int) -> int:
        """Index of the phase that update `step` belongs to; phases without steps have none. 0 <= step < num_steps."""
        return bisect_right(self.starts, step) - 1

    def tokens_after(self, step: int) -> int:
        """Tokens of the first `step` updates; 0 <= step."""
        if step >= self.num_steps:
            return self.num_tokens
        index = self.phase_at(step)
        return self._tokens[index] + (step - self.starts[index]) * self.phases[index].tokens_per_step

    def steps_until(self, tokens: int) -> int:
        """The fewest updates that reach so many tokens; all of them where the span has fewer."""
        return bisect_left(range(self.num_steps), tokens, key=self.tokens_after)
