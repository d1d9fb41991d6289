"""Dealing samples to sources: exact shares, no sample of a source twice, no carried state."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.read.mixture import BLOCK_ROWS, Mixture, MixtureChange, MixtureSchedule, lane_groups, quotas

WEIGHTS = st.lists(st.floats(0.05, 10.0), min_size=2, max_size=5)


@given(weights=WEIGHTS, total=st.integers(10, 10_000))
def test_quotas_add_up_and_are_within_one_of_the_exact_share(weights, total):
    shares = quotas(weights, total=total)
    exact = np.array(weights) / sum(weights) * total
    assert shares.sum() == total and (abs(shares - exact) < 1 + 1e-9).all()


@settings(max_examples=25)
@given(weights=WEIGHTS, key=st.integers(0, 1000))
def test_numbers_of_each_source_are_consecutive_without_repeats(weights, key):
    samples = np.arange(2 * BLOCK_ROWS)
    dealt = Mixture(weights, key=(key,))(samples)
    for source in range(len(weights)):
        numbers = np.sort(dealt.numbers[dealt.sources == source])
        assert np.array_equal(numbers, np.arange(len(numbers)))


@settings(max_examples=25)
@given(weights=WEIGHTS, cut=st.integers(0, 3 * BLOCK_ROWS))
def test_a_sample_is_dealt_the_same_from_any_starting_point(weights, cut):
    mixture = Mixture(weights, key=(5,))
    whole = mixture(np.arange(3 * BLOCK_ROWS))
    part = Mixture(weights, key=(5,))(np.arange(cut, 3 * BLOCK_ROWS))
    assert np.array_equal(part.sources, whole.sources[cut:]) and np.array_equal(part.numbers, whole.numbers[cut:])
    assert np.array_equal(mixture.count(cut), np.bincount(whole.sources[:cut], minlength=len(weights)))


def test_shares_hold_over_short_stretches_too():
    sources = Mixture([0.7, 0.3], key=(1,))(np.arange(BLOCK_ROWS)).sources
    for begin in range(0, BLOCK_ROWS - 512, 512):
        assert abs((sources[begin : begin + 512] == 0).mean() - 0.7) < 0.1


def test_a_weight_too_small_to_be_dealt_is_refused():
    with pytest.raises(DataError, match="weight"):
        Mixture([1.0, 1e-6], key=(1,))


@given(weights=WEIGHTS, extra=st.integers(0, 30))
def test_lane_groups_are_consecutive_and_leave_no_source_out(weights, extra):
    lanes = len(weights) + extra
    groups = lane_groups(weights, lanes=lanes)
    covered = [lane for group in groups for lane in range(group.first, group.first + group.size)]
    assert covered == list(range(lanes)) and all(group.size >= 1 for group in groups)


def test_fewer_lanes_than_sources_is_refused():
    with pytest.raises(DataError, match="global_batch_size"):
        lane_groups([1, 1, 1], lanes=2)


@settings(max_examples=25)
@given(
    ends=st.lists(st.integers(1, 6000), min_size=1, max_size=4, unique=True).map(sorted),
    weights=st.lists(st.tuples(st.sampled_from([0.0, 0.5, 2.0]), st.floats(0.1, 5)), min_size=5, max_size=5),
)
def test_weights_that_change_go_on_where_each_source_was(ends, weights):
    changes = [MixtureChange(begin, pair) for begin, pair in zip([0, *ends], weights, strict=False)]
    total = ends[-1] + 500
    whole = MixtureSchedule(changes, key=(1,))(np.arange(total))
    for source in (0, 1):
        numbers = whole.numbers[whole.sources == source]
        assert np.array_equal(numbers, np.arange(len(numbers)))
    for begin, pair in changes:
        if pair[0] == 0:
            following = [change.first_sample for change in changes if change.first_sample > begin]
            assert (whole.sources[begin : following[0] if following else total] == 1).all()
    tail = MixtureSchedule(changes, key=(1,))(np.arange(total - 100, total))
    assert np.array_equal(tail.numbers, whole.numbers[-100:]) and np.array_equal(tail.sources, whole.sources[-100:])
