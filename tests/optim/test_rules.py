"""Rules of rate and decay: the last one that speaks decides, none makes no group, and a pattern for nothing is told."""

from typing import Any

import pytest
from pydantic import ValidationError
from torch import nn

from hierlm.errors import UserError
from hierlm.nn.parameter_kinds import parameter_kinds
from hierlm.optim.config import ParameterRule
from hierlm.optim.param_groups import param_groups
from hierlm.optim.rules import OwnTerms, Pace, own_terms

NAMES = ["layers.0.tokens.weight", "layers.1.norm.weight", "layers.1.expand.weight", "layers.1.expand.bias"]


def rule(parameters: str, **terms: float) -> ParameterRule:
    return ParameterRule(parameters=parameters, **terms)


def terms_of(*rules: ParameterRule, first: tuple[ParameterRule, ...] = ()) -> dict[str, OwnTerms]:
    return own_terms(NAMES, {"PARAM_RULES of it": first, "optim.rules": rules})


def test_a_pattern_stands_for_names_and_for_modules_around_them() -> None:
    found = terms_of(rule(r"layers\.1", learning_rate_factor=0.5), rule(r".*bias", weight_decay=0.2))
    half = OwnTerms(Pace(factor=0.5))
    assert found == {
        NAMES[0]: OwnTerms(),
        NAMES[1]: half,
        NAMES[2]: half,
        NAMES[3]: OwnTerms(Pace(factor=0.5), weight_decay=0.2),
    }


def test_the_last_rule_that_speaks_of_the_rate_or_of_the_decay_decides() -> None:
    """And the user's come after the architecture's."""
    found = terms_of(
        rule(r"layers\.1", learning_rate=1e-4),
        first=(rule(r".*weight", learning_rate_factor=2.0, weight_decay=0.0),),
    )
    assert found[NAMES[0]] == OwnTerms(Pace(factor=2.0), weight_decay=0.0)
    assert found[NAMES[1]] == OwnTerms(Pace(constant=1e-4), weight_decay=0.0)
    assert found[NAMES[3]] == OwnTerms(Pace(constant=1e-4))


def test_a_constant_rate_follows_no_schedule_and_a_factor_does() -> None:
    assert [Pace(factor=0.5).rate(rate) for rate in (0.0, 2.0)] == [0.0, 1.0]
    assert [Pace(constant=0.1).rate(rate) for rate in (1e-9, 2.0)] == [0.1, 0.1]
    assert Pace(constant=0.1).rate(0.0) == 0.0  # a rehearsal must leave no trace


def test_every_pattern_that_stands_for_nothing_is_told_with_the_nearest_names() -> None:
    with pytest.raises(UserError) as raised:
        terms_of(
            rule(r"layers\.1", weight_decay=0.0),
            rule(r"layers\.1\.nrom", weight_decay=0.0),
            first=(rule("tokns", learning_rate_factor=2.0),),
        )
    of_architecture, of_user = raised.value.problems
    assert of_architecture.startswith('PARAM_RULES of it.0.parameters: given "tokns", which is the name of no')
    assert of_user.startswith(r'optim.rules.1.parameters: given "layers\.1\.nrom", which is the name of no parameter')
    assert "nearest: layers.1.norm" in of_user


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({}, "a rule gives `learning_rate_factor`, `learning_rate` or `weight_decay`"),
        ({"learning_rate": 1.0, "learning_rate_factor": 1.0}, "one of them"),
        ({"parameters": "(", "weight_decay": 0.0}, "is not a regular expression"),
    ],
)
def test_a_rule_says_one_thing_of_the_rate_and_says_something(terms: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ParameterRule(**{"parameters": "x", **terms})


def groups_of(own: dict[str, OwnTerms] | None, *, weight_decay: float = 0.1) -> list[dict[str, Any]]:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    kinds, names = parameter_kinds(model), {id(p): name for name, p in model.named_parameters()}
    groups = param_groups(model.named_parameters(), kinds=kinds, weight_decay=weight_decay, own=own)
    return [{**group, "params": [names[id(p)] for p in group["params"]]} for group in groups]


def test_without_rules_groups_are_those_of_0_1() -> None:
    """Also where rules say nothing new: a checkpoint must not be converted for it."""
    plain = groups_of(None)
    assert [group["params"] for group in plain] == [["0.weight"], ["0.bias", "1.weight", "1.bias"]]
    assert groups_of({"0.weight": OwnTerms(), "0.bias": OwnTerms(weight_decay=0.0)}) == plain
    assert [g["params"] for g in groups_of({"0.bias": OwnTerms(weight_decay=0.0)}, weight_decay=0.0)] == [
        group["params"] for group in plain
    ]


def test_parameters_of_another_pace_or_decay_are_a_group_and_none_is_lost() -> None:
    own = {"0.weight": OwnTerms(Pace(factor=0.5)), "0.bias": OwnTerms(weight_decay=0.3), "1.bias": OwnTerms(Pace(2.0))}
    found = {tuple(g["params"]): (g["pace"], g["weight_decay"], g["name"]) for g in groups_of(own)}
    assert found == {
        ("0.weight",): (Pace(factor=0.5), 0.1, "decay"),
        ("0.bias",): (Pace(), 0.3, "decay_0.3"),
        ("1.weight",): (Pace(), 0.0, "no_decay"),
        ("1.bias",): (Pace(factor=2.0), 0.0, "no_decay"),
    }
