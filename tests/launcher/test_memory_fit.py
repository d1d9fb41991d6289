"""A run that no device of the site can hold is refused with layouts that fit."""

from pathlib import Path

import pytest

from launcher.memory_fit import memory_problems
from tests.config.making import config


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_layouts_that_do(tmp_path: Path) -> None:
    wide = ["model.hidden_dim=8192", "model.ffn_dim=32768", "model.num_layers=16", "model.num_heads=64"]
    large = config(tmp_path, *wide, "phases.0.sequence_length=512", "parallel.data_parallel_degree=8")
    (problem,) = memory_problems(large, device="a100")
    assert "more than one a100 has for tensors; these fit" in problem and "parallel." in problem


@pytest.mark.slow
def test_what_fits_is_not_refused(tmp_path: Path) -> None:
    assert memory_problems(config(tmp_path), device="h100") == []
