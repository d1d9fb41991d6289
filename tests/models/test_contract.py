"""What every architecture found in hierlm/models keeps, whatever its paper: the checks of `hierlm models test`."""

import pytest

from hierlm import models
from hierlm.config.load import load_config
from hierlm.contract.case import NotConcernedError
from hierlm.contract.checks import MATHEMATICS, Check
from hierlm.contract.declared import config_is_read_without_torch, require_no_torch
from hierlm.contract.learning import learns_64_tokens_by_heart
from hierlm.contract.state import recompute_changes_nothing
from tests.models.zoo import CASES, IDS, TINY, case

SLOW = (learns_64_tokens_by_heart, recompute_changes_nothing)
"""But for the first size of each."""


def of_each_case(check: Check):
    """The parameters of a check."""
    for (name, index), label in zip(CASES, IDS, strict=True):
        slow = [pytest.mark.slow] * (check in SLOW and index > 0)
        yield pytest.param(check, name, index, id=f"{check.__name__}-{label}", marks=slow)


PAIRS = [each for check in MATHEMATICS if check is not config_is_read_without_torch for each in of_each_case(check)]


@pytest.mark.parametrize(("check", "name", "index"), PAIRS)
def test_keeps_the_contract(check: Check, name: str, index: int) -> None:
    try:
        check(case(name, index))
    except NotConcernedError as reason:
        pytest.skip(str(reason))


def test_configs_are_read_without_torch() -> None:
    """In one process for all: it takes longer to start than to read them."""
    require_no_torch(f"[models.architecture(name).Config for name in {models.names()}]")


@pytest.mark.parametrize("name", models.names())
def test_its_tiny_config_is_a_complete_run(name: str) -> None:
    config = load_config(TINY / f"{name}.yaml")
    assert config.name.replace("-", "_") == f"tiny_{name}"
    assert config.model.arch == name
    assert config.parallel.world_size == 1
