"""Which parameters each phase trains: patterns of the config against the names of a model. Pure python."""

from collections.abc import Sequence

from hierlm.errors import UserError
from hierlm.phases.config import PhaseConfig
from hierlm.phases.name_patterns import matches, without_match

TrainedIn = tuple[bool, ...]
"""For each phase, in order, whether it trains a parameter."""


def trained_in(names: Sequence[str], phases: Sequence[PhaseConfig]) -> dict[str, TrainedIn]:
    """Parameter name -> in which phases it is trained; `names` are the canonical ones of the whole model.

    A pattern stands for every parameter whose whole name, or that of a module around it, it matches. UserError with
    each pattern that stands for none.
    """
    problems = [
        problem for index, phase in enumerate(phases) for problem in _without_match(names, phases, index, phase)
    ]
    if problems:
        raise UserError(problems)
    return {name: tuple(_is_trained(name, phase) for phase in phases) for name in names}


def _is_trained(name: str, phase: PhaseConfig) -> bool:
    return phase.trainable is None or any(matches(pattern, name) for pattern in phase.trainable)


def _without_match(names: Sequence[str], phases: Sequence[PhaseConfig], index: int, phase: PhaseConfig) -> list[str]:
    if index and phase.trainable == phases[index - 1].trainable:  # inherited: told once
        return []
    problems = (without_match(pattern, names) for pattern in phase.trainable or ())
    return [f"phases.{index}.trainable.{number}: {problem}" for number, problem in enumerate(problems) if problem]
