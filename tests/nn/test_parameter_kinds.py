"""A parameter is what its module says it is."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from hierlm.nn.parameter_kinds import Kind, parameter_kinds


class Said(nn.Module):
    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"rows": "embedding", "bias_map": "vector"}

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterList(torch.zeros(3) for _ in range(2))
        self.bias_map = nn.Linear(1, 3, bias=False)
        self.map = nn.Linear(3, 3)


def test_the_nearest_module_that_says_anything_decides_and_torch_has_the_last_word() -> None:
    outer = nn.Sequential(Said(), nn.LayerNorm(3))
    assert parameter_kinds(outer) == {
        "0.rows.0": "embedding",
        "0.rows.1": "embedding",
        "0.bias_map.weight": "vector",
        "0.map.weight": "matrix",
        "0.map.bias": "vector",
        "1.weight": "vector",
        "1.bias": "vector",
    }


def test_every_name_of_a_tied_parameter_is_what_its_first_one_is() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    assert parameter_kinds(model) == {"0.weight": "embedding", "1.weight": "embedding"}


def test_a_parameter_of_which_nobody_says_anything_is_an_error() -> None:
    model = nn.Sequential(nn.Module())
    model[0].scale = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"0\.scale: no module says what it is; declare it in PARAMETER_KINDS"):
        parameter_kinds(model)
