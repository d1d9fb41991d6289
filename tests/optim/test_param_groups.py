"""Matrices decay, vectors do not, and no parameter is lost."""

from typing import Any

from torch import nn

from hierlm.nn.parameter_kinds import parameter_kinds
from hierlm.optim.param_groups import param_groups


def grouped(model: nn.Module, **how: Any) -> list[dict[str, Any]]:
    return param_groups(model.named_parameters(), kinds=parameter_kinds(model), **how)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 2))
    groups = {g["name"]: g for g in grouped(model, weight_decay=0.1)}
    assert all(p.dim() >= 2 for p in groups["decay"]["params"])
    assert all(p.dim() < 2 for p in groups["no_decay"]["params"])
    assert groups["decay"]["weight_decay"] == 0.1
    assert groups["no_decay"]["weight_decay"] == 0.0


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model[0].bias.requires_grad_(False)
    found = [id(p) for g in grouped(model, weight_decay=0.1) for p in g["params"]]
    assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_an_empty_group_is_left_out() -> None:
    model = nn.Linear(3, 4, bias=False)
    assert [g["name"] for g in grouped(model, weight_decay=0.1)] == ["decay"]


def test_the_kind_decides_and_not_the_shape() -> None:
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Module())
    model[1].weights = nn.Parameter(model[0].weight.detach()[:, 0])
    named = list(model.named_parameters())
    groups = param_groups(named, kinds={"0.weight": "vector", "1.weights": "matrix"}, weight_decay=0.1)
    found = {g["weight_decay"]: [tuple(p.shape) for p in g["params"]] for g in groups}
    assert found == {0.0: [(4, 1)], 0.1: [(4,)]}


def test_parameters_trained_in_other_phases_are_apart() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    trained_in = {"0.weight": (True, True), "0.bias": (True, False), "1.weight": (True, False), "1.bias": (True, True)}
    groups = grouped(model, weight_decay=0.1, trained_in=trained_in)
    found = {(g["name"], g["trained_in"]): [id(p) for p in g["params"]] for g in groups}
    assert found == {
        ("decay", (True, True)): [id(model[0].weight)],
        ("no_decay", (True, True)): [id(model[1].bias)],
        ("no_decay", (True, False)): [id(model[0].bias), id(model[1].weight)],
    }
