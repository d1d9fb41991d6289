"""The cut is the best there is, and beats equal layer counts where levels differ."""

from itertools import combinations, pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlm.costs.stage_cut import cut_by_cost, cut_by_hand, cut_uniformly


def costs(flops, traffic=None):
    traffic = traffic or [0] * len(flops)
    return [SimpleNamespace(training_flops=f, output_bytes_per_row=b) for f, b in zip(flops, traffic, strict=True)]


def slowest(flops, traffic, boundaries, rate):
    stages = list(pairwise(boundaries))
    inside = [sum(flops[a:b]) for a, b in stages]
    at = {0: 0, len(flops): 0} | {b: 2 * rate * traffic[b - 1] for b in boundaries[1:-1]}
    return max(work + at[a] + at[b] for work, (a, b) in zip(inside, stages, strict=True))


LAYERS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=8)


@given(LAYERS, st.integers(1, 4), st.sampled_from([0.0, 0.5, 3.0]))
def test_no_cut_has_a_faster_slowest_stage(layers, num_stages, rate):
    num_stages = min(num_stages, len(layers))
    flops, traffic = [f + 1 for f, _ in layers], [b for _, b in layers]
    found = cut_by_cost(costs(flops, traffic), num_stages=num_stages, flops_per_byte=rate)
    every_cut = ((0, *inner, len(layers)) for inner in combinations(range(1, len(layers)), num_stages - 1))
    best = min(slowest(flops, traffic, cut, rate) for cut in every_cut)
    assert max(found.stage_costs) == pytest.approx(best)
    assert slowest(flops, traffic, found.boundaries, rate) == pytest.approx(best)


def test_cheap_coarse_layers_share_a_stage():
    flops = [100, 100, 10, 10, 10, 10, 10, 10, 10, 10, 100, 100]
    cut, uniform = cut_by_cost(costs(flops), num_stages=3), cut_uniformly(costs(flops), num_stages=3)
    assert cut.boundaries[-2:] == (10, 12)
    assert (max(cut.stage_costs), max(uniform.stage_costs)) == (200, 220)


def test_a_boundary_moves_to_where_less_crosses():
    flops, traffic = [10, 10, 10, 10], [9, 1, 9, 0]
    assert cut_by_cost(costs(flops, traffic), num_stages=2, flops_per_byte=1.0).boundaries == (0, 2, 4)
    assert cut_by_cost(costs(flops, [1, 9, 9, 0]), num_stages=2, flops_per_byte=10.0).boundaries == (0, 1, 4)


def test_imbalance_is_zero_when_even():
    assert cut_by_cost(costs([5, 5, 5, 5]), num_stages=2).imbalance == 0
    assert cut_by_hand(costs([5, 5, 5, 5]), first_layers=[1], num_stages=2).imbalance == pytest.approx(0.5)


def test_a_manual_cut_is_honoured():
    assert cut_by_hand(costs([1] * 6), first_layers=[1, 5], num_stages=3).boundaries == (0, 1, 5, 6)


@pytest.mark.parametrize("first_layers", [[0], [6], [2, 4], [], [7]])
def test_what_is_no_cut_is_refused(first_layers):
    with pytest.raises(ValueError, match="expected 1 rising layer indices between 1 and 5"):
        cut_by_hand(costs([1] * 6), first_layers=first_layers, num_stages=2)


def test_every_stage_needs_a_layer():
    with pytest.raises(ValueError, match="3 stages for 2 layers"):
        cut_by_cost(costs([1, 1]), num_stages=3)
