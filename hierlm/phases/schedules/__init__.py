"""Learning-rate curves after the warm-up: one file = one schedule, found by file name. Copy `wsd.py` to add one.

A schedule's file exports `rate(curve, progress)`, pure: the rate of an update from what the user wrote and from where
the update stands; and `Config`, a `LearningRateConfig` with the fields it has of its own, if it has any.
`learning_rate.decay` chooses it. Pure python.
"""

from types import ModuleType
from typing import NamedTuple

from hierlm.discovery import is_named, module_named, names_in


class Progress(NamedTuple):
    """Where an update behind the warm-up stands, in steps or tokens (`hierlm.phases.learning_rate`)."""

    since_warmup: float
    """0 at the first update behind the warm-up, 1 at the last one of the curve's span."""
    since_start: float
    """The same counted from the span's first update."""
    warmup_end: float
    """Where the first update behind the warm-up stands in `since_start`."""
    warmup_share: float
    """Length of the warm-up over where this update ends, at most 1; without one it is an update long."""


def names() -> list[str]:
    """Every schedule, by file name."""
    return names_in(__name__)


def is_known(name: object) -> bool:
    """Whether there is such a schedule; a plugin's too."""
    return is_named(name, package=__name__)


def schedule(name: str) -> ModuleType:
    """The module of one schedule; ValueError names the known ones."""
    if not is_known(name):
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(names())}")
    return module_named(name, package=__name__)
