"""Matrices decay, vectors do not, and no parameter is lost."""

from torch import nn

from hierlm.optim.param_groups import param_groups


def test_matrices_decay_and_vectors_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 2))
    groups = {g["name"]: g for g in param_groups(model.named_parameters(), weight_decay=0.1)}
    assert all(p.dim() >= 2 for p in groups["decay"]["params"])
    assert all(p.dim() < 2 for p in groups["no_decay"]["params"])
    assert groups["decay"]["weight_decay"] == 0.1
    assert groups["no_decay"]["weight_decay"] == 0.0


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model[0].bias.requires_grad_(False)
    grouped = [id(p) for g in param_groups(model.named_parameters(), weight_decay=0.1) for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_an_empty_group_is_left_out() -> None:
    model = nn.Linear(3, 4, bias=False)
    assert [g["name"] for g in param_groups(model.named_parameters(), weight_decay=0.1)] == ["decay"]
