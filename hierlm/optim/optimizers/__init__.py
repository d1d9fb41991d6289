"""Optimizers: one file = one optimizer, found by file name. Copy `lion.py` to add one.

An optimizer's file exports

    Config                  its fields, an `OptimConfig`; `optim.name` chooses it
    STATES                  names of its elementwise states, in the order of the digest: fp32 tensors of their
                            parameter's shape, so that what cuts it cuts them too (saving, ZeRO, another layout)
    COUNTS                  names of its whole numbers, one of each for all that is updated together (it may have none)
    ZERO_STAGES             the stages it is right at, if not all: from stage 1 on it sees flat stretches of many
                            parameters, so an update of whole matrices has to gather them
    build(groups, config)   the torch optimizer; `groups` hold `params` and `weight_decay`, and `lr` before each step:
                            at a rate of 0 no weight changes, and state that is all zeros is that before the first step

It imports torch only inside `build`, so that its Config is checked where torch is not installed. State of other kinds
is refused after the first step.
"""

from types import ModuleType

from hierlm.discovery import is_named, module_named, names_in

ALL_STAGES = (0, 1, 2, 3)


def names() -> list[str]:
    """Every optimizer, by file name."""
    return names_in(__name__)


def is_known(name: object) -> bool:
    """Whether there is such an optimizer; a plugin's too."""
    return is_named(name, package=__name__)


def optimizer(name: str) -> ModuleType:
    """The module of one optimizer; ValueError names the known ones."""
    if not is_known(name):
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(names())}")
    return module_named(name, package=__name__)


def zero_stages(name: str) -> tuple[int, ...]:
    """The ZeRO stages at which an optimizer makes the update it is meant to make."""
    stages: tuple[int, ...] = getattr(optimizer(name), "ZERO_STAGES", ALL_STAGES)
    return stages
