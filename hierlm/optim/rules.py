"""Rates and decays of single parameters: patterns of an architecture and of the user against the names of a model.

Pure python. Kinds (`hierlm.nn.parameter_kinds`) decide what no rule speaks of.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hierlm.errors import UserError
from hierlm.optim.config import ParameterRule
from hierlm.phases.name_patterns import matches, without_match


class Pace(NamedTuple):
    """How the rate of some parameters follows the phase's: in proportion, or not at all."""

    factor: float = 1.0
    constant: float | None = None

    def rate(self, learning_rate: float) -> float:
        """Of an update for which the phase has `learning_rate`; where that is 0 nothing moves, as in a rehearsal."""
        if self.constant is None or learning_rate == 0.0:
            return self.factor * learning_rate
        return self.constant


class OwnTerms(NamedTuple):
    """What the rules say of a parameter."""

    pace: Pace = Pace()
    weight_decay: float | None = None


def own_terms(names: Sequence[str], rules: Mapping[str, Sequence[ParameterRule]]) -> dict[str, OwnTerms]:
    """Parameter name -> what rules say of it; `names` are the canonical ones of the whole model.

    `rules` by where they stand, those that others may overrule first. UserError with each pattern that stands for no
    parameter.
    """
    problems = [
        f"{where}.{number}.parameters: {problem}"
        for where, of_one in rules.items()
        for number, rule in enumerate(of_one)
        if (problem := without_match(rule.parameters, names))
    ]
    if problems:
        raise UserError(problems)
    in_order = [rule for of_one in rules.values() for rule in of_one]
    return {name: _terms([rule for rule in in_order if matches(rule.parameters, name)]) for name in names}


def _terms(rules: Sequence[ParameterRule]) -> OwnTerms:
    pace, weight_decay = Pace(), None
    for rule in rules:
        if rule.learning_rate is not None:
            pace = Pace(constant=rule.learning_rate)
        elif rule.learning_rate_factor is not None:
            pace = Pace(factor=rule.learning_rate_factor)
        if rule.weight_decay is not None:
            weight_decay = rule.weight_decay
    return OwnTerms(pace, weight_decay)
