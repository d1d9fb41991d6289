"""What is loaded answers as what was saved did, under any layout; anything else is refused."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlm.train.proof import ALLOWED_NATS, difference
from tests.checkpoint.layouts import SAVED_AFTER, overrides, small_engine, steps_made
from tests.distributed.spawn import run_ranks


def proof_and_state(arch: str, settings: list[str]) -> Any:
    """On every rank: two proofs after the same steps, and what training holds before and behind them."""
    from hierlm.phases.timeline import Timeline
    from hierlm.train.proof import proof_of

    engine = small_engine(arch, settings)
    steps_made(engine, range(SAVED_AFTER))
    last = Timeline(engine.config.phases).at(SAVED_AFTER - 1)
    before = engine._kept_over_switch(last)
    proofs = [proof_of(engine, last=last) for _ in range(2)]
    return proofs, before == engine._kept_over_switch(last)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("arch", ["transformer_xl", "hourglass"])
def test_every_rank_of_every_layout_gives_the_same_proof_and_training_is_not_touched(arch: str) -> None:
    found = []
    for layout in ({}, {"dp": 2, "zero": 1}, {"tp": 2, "pp": 2}):
        size = math.prod(value for key, value in layout.items() if key != "zero")
        for (first, second), is_untouched in run_ranks(proof_and_state, size, arch, overrides(**layout)):
            assert is_untouched
            assert first == second and len(first) == 16 and all(nats > 1 for nats in first)
            found.append(first)
    assert all(difference(found[0], other, precision="fp32") is None for other in found)


@given(st.lists(st.floats(0, 12), min_size=1, max_size=20), st.data(), st.sampled_from(["fp32", "bf16"]))
def test_one_token_further_off_than_rounding_is_a_difference(
    stored: list[float], data: st.DataObject, precision: str
) -> None:
    place = data.draw(st.integers(0, len(stored) - 1))
    assert difference(stored, stored, precision=precision) is None
    moved = [value + 2 * ALLOWED_NATS[precision] * (index == place) for index, value in enumerate(stored)]
    told = difference(stored, moved, precision=precision)
    assert told is not None and told.startswith(f"token {place} costs")


def test_a_loaded_model_without_finite_losses_is_another_one() -> None:
    assert difference([5.0], None, precision="fp32") == "its losses are not finite"


def test_fewer_tokens_are_a_difference() -> None:
    assert difference([5.0, 5.0], [5.0], precision="fp32") is not None
