import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hierlm.phases.config import Duration


@given(tokens=st.integers(0, 10**9), per_step=st.integers(1, 10**6))
def test_tokens_become_the_fewest_whole_steps_that_reach_them(tokens: int, per_step: int) -> None:
    steps = Duration(tokens=tokens).in_steps(tokens_per_step=per_step)
    assert steps * per_step >= tokens
    assert steps == 0 or (steps - 1) * per_step < tokens


def test_steps_stay_steps_whatever_the_batch() -> None:
    assert Duration(steps=7).in_steps(tokens_per_step=1000) == 7


@pytest.mark.parametrize("units", [{}, {"steps": 1, "tokens": 1}, {"steps": -1}])
def test_a_duration_has_exactly_one_unit(units: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Duration(**units)
