"""AdamW of which a phase may leave out parameters: neither weight, moment nor step count of theirs changes in it."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hierlm.phases.trainable import TrainedIn

FROZEN = "frozen"
"""Key of a parameter group that the present phase does not train."""


class PhasedAdamW(torch.optim.AdamW):
    """A group's `trained_in` holds a bool for each phase; () = trained in all.

    The gradient of a frozen parameter is made zero where it arises: whoever sums, scatters, measures or clips gradients
    (DeepSpeed, in its own way at every ZeRO stage) then sees those of the trained ones alone. A zero gradient would
    still shrink moments and decay weights, so frozen groups are left out of the update.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **settings: Any) -> None:
        # not kept in the groups: loading a checkpoint overwrites what they hold
        self._trained_in: list[TrainedIn] = [group.get("trained_in", ()) for group in groups]
        self._phase_index = 0
        plain = [{key: value for key, value in group.items() if key != "trained_in"} for group in groups]
        super().__init__(plain, **settings)
        for group, phases in zip(plain, self._trained_in, strict=True):
            for parameter in () if all(phases) else group["params"]:
                parameter.register_hook(partial(self._gradient, phases))

    def begin_phase(self, index: int) -> None:
        """Train the groups that phase `index` trains, until the next call."""
        self._phase_index = index
        for group, phases in zip(self.param_groups, self._trained_in, strict=True):
            group[FROZEN] = self._is_frozen(phases)

    def skip_if(self, condition: Tensor) -> None:
        """Let the next steps change nothing, counts included, while `condition`, bool [], holds; nobody waits for it.

        The kernels of torch's fused AdamW read this attribute on the device, as mixed precision uses it.
        """
        self.found_inf = condition.float()

    def step(self, closure: Any = None) -> Any:
        """Update what is not frozen."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get(FROZEN)]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups

    def _is_frozen(self, phases: TrainedIn) -> bool:
        return bool(phases) and not phases[self._phase_index]

    def _gradient(self, phases: TrainedIn, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient) if self._is_frozen(phases) else gradient
