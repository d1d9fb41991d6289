"""Which parameters each phase trains: patterns of the config against the names of a model. Pure python."""

import difflib
import re
from collections.abc import Sequence
from itertools import accumulate

from hierlm.errors import UserError
from hierlm.phases.config import PhaseConfig

TrainedIn = tuple[bool, ...]
"""For each phase, in order, whether it trains a parameter."""

NUM_NEAREST = 3


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
    return phase.trainable is None or any(_matches(pattern, name) for pattern in phase.trainable)


def _matches(pattern: str, name: str) -> bool:
    return any(re.fullmatch(pattern, place) for place in _places(name))


def _places(name: str) -> list[str]:
    """`a`, `a.b`, `a.b.c` for `a.b.c`: the modules around a parameter and itself."""
    return list(accumulate(name.split("."), "{}.{}".format))


def _without_match(names: Sequence[str], phases: Sequence[PhaseConfig], index: int, phase: PhaseConfig) -> list[str]:
    if index and phase.trainable == phases[index - 1].trainable:  # inherited: told once
        return []
    places = list(dict.fromkeys(place for name in names for place in _places(name)))
    return [
        f'phases.{index}.trainable.{number}: given "{pattern}", which is the name of no parameter or module, '
        f"allowed: a regular expression for the whole name, nearest: {', '.join(_nearest(pattern, places))}"
        for number, pattern in enumerate(phase.trainable or ())
        if not any(_matches(pattern, name) for name in names)
    ]


def _nearest(pattern: str, places: Sequence[str]) -> list[str]:
    plain = pattern.replace("\\", "")
    return difflib.get_close_matches(plain, places, n=NUM_NEAREST, cutoff=0.0)
