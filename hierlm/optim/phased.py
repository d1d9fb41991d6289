"""Any optimizer, in phases: some leave out parameters, and rules give some a rate of their own.

What a phase leaves out keeps weight, state and counts to the last bit.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hierlm.errors import UserError
from hierlm.optim.rules import Pace
from hierlm.optim.state_names import StateNames
from hierlm.phases.trainable import TrainedIn

FROZEN = "frozen"
"""Key of a parameter group that the present phase does not train."""


class GroupTerms(NamedTuple):
    """What holds for a parameter group in all phases."""

    trained_in: TrainedIn  # a bool for each phase; () = trained in all
    pace: Pace


class Phased(torch.optim.Optimizer):
    """An optimizer around another one, whose groups and state it shares: DeepSpeed wants a torch optimizer.

    Loading a checkpoint replaces groups and state of the outer one, so the inner one is handed them at every step, and
    what a group's terms are is kept beside the groups.

    The gradient of a frozen parameter is made zero where it arises: whoever sums, scatters, measures or clips gradients
    (DeepSpeed, in its own way at every ZeRO stage) then sees those of the trained ones alone. A zero gradient would
    still shrink moments and decay weights, so frozen groups are left out of the update.
    """

    def __init__(self, inner: torch.optim.Optimizer, terms: Sequence[GroupTerms], *, names: StateNames) -> None:
        super().__init__(inner.param_groups, inner.defaults)
        self.param_groups, self.state, self.state_names = inner.param_groups, inner.state, names
        self._inner, self._terms = inner, tuple(terms)
        self._phase_index = 0
        self._skips: Tensor | None = None
        self._described = set[Tensor]()
        for group, of_group in zip(self.param_groups, self._terms, strict=True):
            for parameter in () if all(of_group.trained_in) else group["params"]:
                parameter.register_hook(partial(self._gradient, of_group.trained_in))

    def begin_update(self, phase_index: int, *, learning_rate: float) -> None:
        """Train the groups that the phase trains, at the phase's rate or their own, until the next call."""
        self._phase_index = phase_index
        for group, of_group in zip(self.param_groups, self._terms, strict=True):
            group[FROZEN] = self._is_frozen(of_group.trained_in)
            group["lr"] = of_group.pace.rate(learning_rate)

    def settings(self) -> list[dict[str, Any]]:
        """Of each group, what neither a phase nor a step changes."""
        changing = ("params", "lr", FROZEN)
        return [{key: value for key, value in group.items() if key not in changing} for group in self.param_groups]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state; the settings stay, which come from the config and not from a checkpoint."""
        settings = self.settings()
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, settings, strict=True):
            group.update(own)

    def skip_if(self, condition: Tensor) -> None:
        """Let the next steps change nothing, counts included, while `condition`, bool [], holds."""
        self._skips = condition

    def step(self, closure: Any = None) -> Any:
        """Update what is not frozen."""
        if self._skips is not None:
            if getattr(self._inner, "_step_supports_amp_scaling", False):
                # torch's fused kernels read this on the device, as mixed precision uses it: nobody waits
                self._inner.found_inf = self._skips.float()  # type: ignore[attr-defined]
            elif bool(self._skips):
                return None
        self._inner.state = self.state
        self._inner.param_groups = [group for group in self.param_groups if not group.get(FROZEN)]
        found = self._inner.step(closure)
        self._require_described()
        return found

    def _require_described(self) -> None:
        """UserError for state that no file would hold: whoever saved and loaded it would go on with another run."""
        states, counts = self.state_names.states, self.state_names.counts
        for parameter in self.state.keys() - self._described:
            for name, value in self.state[parameter].items():
                is_tensor = isinstance(value, Tensor)
                if not (
                    (name in states and is_tensor and value.shape == parameter.shape)
                    or (name in counts and is_tensor and value.numel() == 1)
                ):
                    what = list(value.shape) if is_tensor else type(value).__name__
                    raise UserError(
                        f"optim.name: given {self.state_names.name}, whose state {name} ({what} of a parameter "
                        f"{list(parameter.shape)}) its file does not describe, allowed: tensors of the parameter's "
                        "shape named in STATES, and single numbers in COUNTS"
                    )
            self._described.add(parameter)

    def _is_frozen(self, phases: TrainedIn) -> bool:
        return bool(phases) and not phases[self._phase_index]

    def _gradient(self, phases: TrainedIn, gradient: Tensor) -> Tensor:
        return torch.zeros_like(gradient) if self._is_frozen(phases) else gradient
