"""Layers without values: nothing is drawn for them."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hierlm.config.load import load_config
from hierlm.models.assembly import layer_specs
from hierlm.models.weightless import alone, built_on
from tests.conftest import ROOT

META = torch.device("meta")


class Drawn(TorchDispatchMode):
    """The operators that draw, by name."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "normal" in str(function) or "uniform" in str(function) or "random" in str(function):
            self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs" / "tiny").glob("*.yaml")))
def test_a_layer_without_values_draws_none(name):
    """A draw on the meta device imports a part of torch's compiler, which takes longer than all layers together."""
    specs = layer_specs(load_config(str(ROOT / "configs" / "tiny" / f"{name}.yaml")).model)
    with Drawn() as drawn:
        for index, spec in enumerate(specs):
            assert all(parameter.is_meta for parameter in alone(spec, index=index, device=META).parameters())
    assert drawn.names == []


def test_a_layer_with_values_draws_them_there_too():
    with Drawn() as drawn, built_on(torch.device("cpu")):
        assert nn.Linear(3, 3).weight.abs().sum() > 0
    assert drawn.names
