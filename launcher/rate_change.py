"""What making a run longer does to the learning rate of the steps to come: told before the first of them."""

from collections.abc import Sequence

from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig
from hierlm.phases.config import PhaseConfig
from hierlm.phases.timeline import Timeline, curve_spans

Config = RunConfig[ModelConfig]


def rate_change(old: Config, new: Config, *, step: int) -> str | None:
    """One line where `new`, which is `old` made longer, bends the curve that a run of `step` completed steps is on.

    None where the next rate is the planned one, or that of an added phase which names its own.
    """
    before, after = Timeline(old.phases), Timeline(new.phases)
    if not 0 < step < after.num_steps:
        return None
    here, last = after.at(step), before.at(step - 1)
    if _curve(new.phases, here.phase_index) >= len(old.phases):
        return None
    planned = before.at(step).learning_rate if step < before.num_steps else last.learning_rate
    if here.learning_rate == planned:
        return None
    ends, ended = _end(new.phases, here.phase_index), _end(old.phases, last.phase_index)
    peak = f"{planned:.1e}" if planned > 0 else "RATE"
    return (
        f"the learning rate goes from {last.learning_rate:.1e} at step {step} to {here.learning_rate:.1e} at step "
        f"{step + 1}, because its curve now ends at step {ends}, no longer at {ended}; to leave the curve as it was, "
        "keep the phases as they were and add one with a rate of its own: "
        f"{{name: more, duration: ..., learning_rate: {{peak: {peak}, decay: constant}}}}"
    )


def _curve(phases: Sequence[PhaseConfig], index: int) -> int:
    """The phase that begins the curve a phase is on."""
    return max(first for first in curve_spans(phases) if first <= index)


def _end(phases: Sequence[PhaseConfig], index: int) -> int:
    """Where that curve ends, in steps of the run."""
    first = _curve(phases, index)
    return sum(phase.num_steps for phase in phases[:first]) + curve_spans(phases)[first].num_steps
