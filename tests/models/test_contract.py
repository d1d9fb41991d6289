"""What every architecture found in hierlm/models keeps, whatever its paper: the checks of `hierlm models test`."""

import pytest

from hierlm import models
from hierlm.config.load import load_config
from hierlm.contract.case import NotConcernedError
from hierlm.contract.checks import MATHEMATICS, Check
from hierlm.contract.learning import learns_64_tokens_by_heart
from tests.models.zoo import CASES, IDS, TINY, case

of_the_file_alone = {"says_where_it_comes_from", "config_is_read_without_torch"}


def pairs():
    """Every check on every case; what is slow, or the same for all sizes, on the first of an architecture."""
    for check in MATHEMATICS:
        for (name, index), label in zip(CASES, IDS, strict=True):
            if index == 0 or check.__name__ not in of_the_file_alone:
                slow = check is learns_64_tokens_by_heart and index > 0
                yield pytest.param(check, name, index, id=f"{check.__name__}-{label}", marks=[pytest.mark.slow] * slow)


@pytest.mark.parametrize(("check", "name", "index"), pairs())
def test_keeps_the_contract(check: Check, name: str, index: int) -> None:
    try:
        check(case(name, index))
    except NotConcernedError as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", models.names())
def test_its_tiny_config_is_a_complete_run(name: str) -> None:
    config = load_config(TINY / f"{name}.yaml")
    assert config.name.replace("-", "_") == f"tiny_{name}"
    assert config.model.arch == name
    assert config.parallel.world_size == 1
