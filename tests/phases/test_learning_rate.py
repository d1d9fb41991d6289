import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlm.phases.config import Duration, LearningRateConfig, PhaseConfig
from hierlm.phases.learning_rate import Curve
from hierlm.phases.schedules import names, schedule
from hierlm.phases.span import Span


def curve(**fields: Any) -> LearningRateConfig:
    """Of the class that the schedule's file has, if it has one."""
    config: type[LearningRateConfig] = getattr(schedule(fields.get("decay", "cosine")), "Config", LearningRateConfig)
    return config(**{"peak": 1.0, "final": 0.1, **fields})


def phase(duration: Duration, *, batch: int = 1, length: int = 1, rate: LearningRateConfig) -> PhaseConfig:
    return PhaseConfig(name="p", duration=duration, sequence_length=length, global_batch_size=batch, learning_rate=rate)


def rates(config: LearningRateConfig, *, span: int, warmup: int) -> list[float]:
    """In steps, of one phase."""
    timed = config.model_copy(update={"warmup": Duration(steps=warmup)})
    drawn = Curve(Span([phase(Duration(steps=span), rate=timed)]))
    return [drawn.rate(step) for step in range(span)]


DECAYS = names()


@pytest.mark.parametrize("decay", DECAYS)
def test_the_warm_up_is_a_straight_line_to_the_peak(decay: str) -> None:
    assert rates(curve(decay=decay), span=20, warmup=4)[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_every_schedule_is_a_file() -> None:
    assert DECAYS == ["constant", "cosine", "cosine_from_start", "inverse_sqrt", "linear", "wsd"]


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


@pytest.mark.parametrize(("cooldown", "falls"), [("one_minus_sqrt", math.sqrt), ("linear", float)])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 1.0])
def test_wsd_stays_at_the_peak_and_cools_down_over_the_last_part_of_the_span(
    cooldown: str, falls: Any, fraction: float
) -> None:
    """2405.18392, equation 2, with a cool-down that ends at the last update."""
    config = curve(decay="wsd", cooldown=cooldown, cooldown_fraction=fraction)
    found = rates(config, span=101, warmup=10)
    begins = max(round(100 * (1 - fraction)), 10)
    assert found[10 : begins + 1] == pytest.approx([1.0] * (begins + 1 - 10))
    wanted = [0.1 + 0.9 * (1 - falls((step - begins) / (100 - begins))) for step in range(begins, 101)]
    assert found[begins:] == pytest.approx(wanted)
    assert found[-1] == pytest.approx(0.1)


def test_a_run_made_longer_leaves_the_stable_part_as_it_was() -> None:
    short, long = (rates(curve(decay="wsd"), span=span, warmup=5) for span in (50, 200))
    assert short[:40] == long[:40]


@given(ramp=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4))
def test_a_cool_down_over_durations_in_tokens_begins_by_tokens(ramp: list[tuple[int, int]]) -> None:
    config = curve(decay="wsd", cooldown="linear", final=0.0, cooldown_fraction=0.5)
    drawn = Curve(Span([phase(Duration(tokens=n * batch), batch=batch, rate=config) for n, batch in ramp]))
    batches = [batch for steps, batch in ramp for _ in range(steps)]
    total = sum(batches[:-1])
    for step in range(len(batches)):
        done = sum(batches[:step]) / total if total else 0.0
        assert drawn.rate(step) == pytest.approx(min(1.0, 2 * (1 - done)), abs=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@given(span=st.integers(1, 50), data=st.data())
def test_the_rate_is_never_above_the_peak_nor_zero_before_the_end(decay: str, span: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, span))
    assert all(0 < rate <= 1.0 + 1e-12 for rate in rates(curve(decay=decay), span=span, warmup=warmup))


ramps = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=4)
"""(steps, tokens a step) of every phase."""


@pytest.mark.parametrize("decay", DECAYS)
@given(ramp=ramps, share=st.floats(0, 1), in_tokens=st.booleans())
def test_a_warm_up_in_tokens_is_measured_in_tokens_whatever_the_batch(
    decay: str, ramp: list[tuple[int, int]], share: float, in_tokens: bool
) -> None:
    total = sum(steps * batch for steps, batch in ramp)
    warmup = max(round(share * total), 1)
    config = curve(decay=decay, warmup=Duration(tokens=warmup))
    durations = [Duration(tokens=n * batch) if in_tokens else Duration(steps=n) for n, batch in ramp]
    drawn = Curve(Span([phase(d, batch=batch, rate=config) for d, (_, batch) in zip(durations, ramp, strict=True)]))
    seen, last = 0, 1.0
    for step, batch in enumerate([batch for steps, batch in ramp for _ in range(steps)]):
        was_warm, seen = seen >= warmup, seen + batch
        rate = drawn.rate(step)
        if not was_warm:
            assert rate == pytest.approx(min(seen / warmup, 1.0))
        elif decay == "inverse_sqrt":
            assert rate == pytest.approx(math.sqrt(warmup / seen))
        else:
            assert rate <= last
            last = rate
    if decay in ("linear", "cosine") and total - batch >= warmup:
        ends_at_once = sum(1 for _ in ramp) and drawn.rate(step) == 1.0  # a single update is left for the decay
        assert ends_at_once or drawn.rate(step) == pytest.approx(0.1)


@given(ramp=ramps, warmup=st.integers(0, 5))
def test_a_decay_over_durations_in_tokens_falls_by_tokens(ramp: list[tuple[int, int]], warmup: int) -> None:
    config = curve(decay="linear", final=0.0, warmup=Duration(steps=warmup))
    drawn = Curve(Span([phase(Duration(tokens=n * batch), batch=batch, rate=config) for n, batch in ramp]))
    batches = [batch for steps, batch in ramp for _ in range(steps)]
    length = sum(batches[warmup:-1])
    for step in range(warmup, len(batches)):
        gone = sum(batches[warmup:step]) / length if length else 0.0
        assert drawn.rate(step) == pytest.approx(1 - gone, abs=1e-12)


@given(tokens=st.integers(0, 200), ramp=ramps)
def test_the_steps_until_some_tokens_are_the_fewest_that_reach_them(ramp: list[tuple[int, int]], tokens: int) -> None:
    span = Span([phase(Duration(steps=n), batch=batch, rate=curve()) for n, batch in ramp])
    wanted = min(tokens, span.num_tokens)
    steps = span.steps_until(wanted)
    assert span.tokens_after(steps) >= wanted
    assert steps == 0 or span.tokens_after(steps - 1) < wanted
