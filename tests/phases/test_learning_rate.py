import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlm.phases.config import LearningRateConfig
from hierlm.phases.learning_rate import learning_rate


def curve(**fields: Any) -> LearningRateConfig:
    return LearningRateConfig(**{"peak": 1.0, "final": 0.1, **fields})


def rates(config: LearningRateConfig, *, span: int, warmup: int) -> list[float]:
    return [learning_rate(config, step=step, span_steps=span, warmup_steps=warmup) for step in range(span)]


DECAYS = ["cosine", "cosine_from_start", "linear", "constant", "inverse_sqrt"]


@pytest.mark.parametrize("decay", DECAYS)
def test_the_warm_up_is_a_straight_line_to_the_peak(decay: str) -> None:
    assert rates(curve(decay=decay), span=20, warmup=4)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize("decay", ["cosine", "linear"])
@given(warmup=st.integers(0, 20), rest=st.integers(2, 100))
def test_a_decay_falls_from_the_peak_to_the_final_rate(decay: str, warmup: int, rest: int) -> None:
    after = rates(curve(decay=decay), span=warmup + rest, warmup=warmup)[warmup:]
    assert after[0] == pytest.approx(1.0)
    assert after[-1] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(after))


def test_the_cosine_is_half_way_in_the_middle() -> None:
    assert rates(curve(decay="cosine"), span=11, warmup=0)[5] == pytest.approx(0.55)


def test_a_cosine_from_the_start_counts_the_warm_up_too() -> None:
    """As where a cosine over all steps is asked for its value at the step's own number (1901.02860, its code)."""
    found = rates(curve(decay="cosine_from_start", final=0.0), span=101, warmup=10)
    whole = [0.5 * (1 + math.cos(math.pi * step / 100)) for step in range(101)]
    assert found[10:] == pytest.approx(whole[10:])
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates(curve(decay="cosine_from_start"), span=50, warmup=0) == rates(curve(), span=50, warmup=0)


def test_constant_stays_and_inverse_sqrt_falls_as_its_name_says() -> None:
    assert set(rates(curve(decay="constant"), span=9, warmup=0)) == {1.0}
    slow = rates(curve(decay="inverse_sqrt"), span=64, warmup=4)
    assert slow[15] == pytest.approx(math.sqrt(4 / 16))
    assert slow[63] == pytest.approx(math.sqrt(4 / 64))


@pytest.mark.parametrize("decay", DECAYS)
@given(span=st.integers(1, 50), data=st.data())
def test_the_rate_is_never_above_the_peak_nor_zero_before_the_end(decay: str, span: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, span))
    assert all(0 < rate <= 1.0 + 1e-12 for rate in rates(curve(decay=decay), span=span, warmup=warmup))
