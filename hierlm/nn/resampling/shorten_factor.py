"""The shorten factor k of a valley, fixed or drawn anew each step (Hourglass, 2110.13711, Table 4)."""

from random import Random

from hierlm.nn.layer import StepContext


class ShortenFactor:
    """k in evaluation is always the fixed one; in training it is one of the phase's `shorten_factors`, if any.

    The draw is keyed by (seed, step): every layer of the valley and every rank draws the same.
    """

    def __init__(self, fixed: int) -> None:
        self.fixed = fixed
        self._drawn = fixed

    def begin_step(self, context: StepContext) -> None:
        """Draw the factor of this step's training passes."""
        choices = context.switches.get("shorten_factors") or (self.fixed,)
        self._drawn = Random(f"{context.seed} shorten_factor {context.step}").choice(list(choices))  # type: ignore[call-overload]

    def now(self, *, training: bool) -> int:
        """k of the pass being made."""
        return self._drawn if training else self.fixed
