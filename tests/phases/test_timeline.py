from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlm.phases.config import Duration, LearningRateConfig, PhaseConfig
from hierlm.phases.timeline import Timeline


def phase(steps: int = 5, *, length: int = 8, batch: int = 2, peak: float = 1.0, **fields: Any) -> PhaseConfig:
    rate = LearningRateConfig(peak=peak, decay="linear", final=0.0)
    return PhaseConfig(
        **{"name": "p", "duration": Duration(steps=steps), "learning_rate": rate, **fields},
        sequence_length=length,
        global_batch_size=batch,
    )


phases = st.lists(
    st.builds(phase, st.integers(0, 6), length=st.sampled_from([4, 8]), batch=st.integers(1, 3)), min_size=1, max_size=4
).filter(lambda drawn: any(p.num_steps for p in drawn))


@given(phases)
def test_every_step_belongs_to_the_phase_whose_stretch_it_lies_in(drawn: list[PhaseConfig]) -> None:
    timeline = Timeline(drawn)
    expected = [(index, inside) for index, p in enumerate(drawn) for inside in range(p.num_steps)]
    moments = [timeline.at(step) for step in range(timeline.num_steps)]
    assert [(m.phase_index, m.step_in_phase) for m in moments] == expected
    assert [m.starts_phase for m in moments] == [inside == 0 for _, inside in expected]


@given(phases)
def test_tokens_seen_is_the_sum_of_the_batches_before(drawn: list[PhaseConfig]) -> None:
    timeline, seen = Timeline(drawn), 0
    for step in range(timeline.num_steps):
        moment = timeline.at(step)
        assert moment.tokens_seen == timeline.tokens_after(step) == seen
        seen += moment.phase.tokens_per_step
    assert timeline.num_tokens == timeline.tokens_after(timeline.num_steps) == seen


@given(phases)
def test_rows_follow_each_other_without_gap_until_their_length_changes(drawn: list[PhaseConfig]) -> None:
    timeline = Timeline(drawn)
    moments = [timeline.at(step) for step in range(timeline.num_steps)]
    for before, after in pairwise(moments):
        if before.data_pass == after.data_pass:
            assert before.phase.sequence_length == after.phase.sequence_length
            assert after.first_sample == before.first_sample + before.phase.global_batch_size
        else:
            assert after.data_pass > before.data_pass
            assert after.first_sample == 0


@given(phases)
def test_no_row_is_read_twice(drawn: list[PhaseConfig]) -> None:
    timeline = Timeline(drawn)
    read: set[tuple[int, int]] = set()
    for step in range(timeline.num_steps):
        moment = timeline.at(step)
        rows = range(moment.first_sample, moment.first_sample + moment.phase.global_batch_size)
        new = {(moment.data_pass, row) for row in rows}
        assert read.isdisjoint(new)
        read |= new


def test_a_curve_spans_the_phases_that_declare_none() -> None:
    timeline = Timeline([phase(4, peak=1.0), phase(4, restarts_learning_rate=False), phase(3, peak=0.5)])
    rates = [timeline.at(step).learning_rate for step in range(timeline.num_steps)]
    assert rates[:8] == pytest.approx([1 - i / 7 for i in range(8)])  # one line over both, no step between them
    assert rates[8:] == pytest.approx([0.5, 0.25, 0.0])


def test_a_warm_up_in_tokens_counts_the_tokens_of_every_phase_it_runs_through() -> None:
    rate = LearningRateConfig(peak=1.0, warmup=Duration(tokens=112), decay="constant")
    timeline = Timeline(
        [
            phase(2, length=8, batch=2, learning_rate=rate),  # 16 tokens a step
            phase(4, length=8, batch=5, learning_rate=rate, restarts_learning_rate=False),  # 40
        ]
    )
    rates = [timeline.at(step).learning_rate for step in range(timeline.num_steps)]
    assert rates == pytest.approx([16 / 112, 32 / 112, 72 / 112, 1, 1, 1])


def test_boundaries_are_where_later_phases_begin() -> None:
    assert Timeline([phase(4), phase(2), phase(3)]).boundaries == (4, 6)


def test_outside_the_timeline_there_is_no_moment() -> None:
    timeline = Timeline([phase(4)])
    for step in (-1, 4):
        with pytest.raises(ValueError, match="outside the timeline of 4 steps"):
            timeline.at(step)
    with pytest.raises(ValueError, match="at least one phase"):
        Timeline([])


def test_data_weights_change_where_a_phase_changes_them_and_are_counted_within_a_data_pass() -> None:
    phases = [
        phase(3, batch=2),
        phase(2, batch=4, data_weights=(1.0, 3.0)),
        phase(0, data_weights=(5.0, 5.0)),  # an empty phase changes nothing
        phase(2, batch=4, data_weights=(1.0, 3.0)),
        phase(2, length=4, data_weights=(1.0, 3.0)),  # rows of another length: a new data pass
    ]
    timeline = Timeline(phases)
    assert timeline.at(0).data_weights == ((0, None),)
    for step in (3, 4, 5, 6):
        assert timeline.at(step).data_weights == ((0, None), (6, (1.0, 3.0)))
    assert timeline.at(7).data_weights == ((0, (1.0, 3.0)),)


@given(phases)
def test_what_was_dealt_before_a_change_of_weights_stays(drawn: list[PhaseConfig]) -> None:
    weighted = [p.model_copy(update={"data_weights": (1.0, float(i))}) for i, p in enumerate(drawn)]
    timeline = Timeline(weighted)
    for before, after in pairwise(timeline.at(step) for step in range(timeline.num_steps)):
        if before.data_pass == after.data_pass:
            assert after.data_weights[: len(before.data_weights)] == before.data_weights
        assert after.data_weights[-1].weights == after.phase.data_weights
        assert after.data_weights[-1].first_sample <= after.first_sample
