"""Only layouts that can run are proposed, and those that fit, fastest first."""

from dataclasses import replace

import pytest

from hierlm.config import rules
from hierlm.errors import UserError
from hierlm.parallel.config import ParallelConfig
from hierlm.plan.device import USABLE_MEMORY
from hierlm.plan.layouts import candidates, changes
from hierlm.plan.search import fastest, nearest_that_fit, scaling
from tests.plan.making import config, estimator

SMALL = ("phases.0.global_batch_size=2", "model.num_layers=1")


def test_candidates_use_all_devices_and_break_no_rule():
    run = config("transformer")
    found = list(candidates(run, num_devices=4, num_layers=5, per_node=4))
    assert {layout.world_size for layout in found} == {4}
    assert len(found) > 20
    assert not any(rules.conflicts(run.model_copy(update={"parallel": layout})) for layout in found)
    assert not any(layout.zero_stage > 1 and layout.pipeline_parallel_degree > 1 for layout in found)


def test_tensor_parallelism_stays_in_a_node():
    found = candidates(config("transformer"), num_devices=4, num_layers=5, per_node=2)
    assert {layout.tensor_parallel_degree for layout in found} == {1, 2}


@pytest.mark.parametrize("memory_bytes", [2**40, 3 * 2**20])
def test_a_search_leaves_out_only_what_is_slower(memory_bytes: int):
    """Beside all layouts worked out one by one, of those that differ in what is recomputed the first that fits."""
    asked = estimator("transformer", *SMALL, memory_bytes=memory_bytes)
    every = candidates(asked.config, num_devices=2, num_layers=4, per_node=8)
    first: dict[ParallelConfig, float] = {}
    for each in (asked.estimate(layout, exact=False) for layout in every):
        if each.fits:
            first.setdefault(each.layout.model_copy(update={"activation_recompute": "none"}), each.seconds)
    found = [each.seconds for each in fastest(asked, num_devices=2, most=4)]
    assert found and found == pytest.approx(sorted(first.values())[:4])


def test_only_what_fits_is_proposed():
    found = fastest(estimator("transformer", *SMALL), num_devices=2, most=500)
    peaks = sorted(each.peak_bytes for each in found)
    tight = estimator("transformer", *SMALL, memory_bytes=int(peaks[len(peaks) // 2] / USABLE_MEMORY) + 1)
    fitting = fastest(tight, num_devices=2, most=500)
    assert fitting and all(each.fits for each in fitting)
    assert fitting[0].seconds >= found[0].seconds


def test_a_search_tries_sequence_parallelism_and_recomputation():
    tried = list(candidates(config("transformer"), num_devices=4, num_layers=5, per_node=4))
    assert {layout.sequence_parallel for layout in tried if layout.tensor_parallel_degree > 1} == {False, True}
    assert {layout.activation_recompute for layout in tried} == {"none", "selective", "full"}


def test_more_devices_than_the_batch_has_rows_for_are_told_not_to_help():
    asked = estimator("transformer", *SMALL, "model.num_layers=2")
    [best] = fastest(asked, num_devices=8, most=1)
    found = scaling(asked, best)
    assert found.most_data_parallel == 2 and found.half_seconds is not None
    assert "the batch (2 rows) caps data parallelism at 2 ranks" in found.line
    assert ("no longer help" in found.line) == (not found.helps)
    [smaller] = fastest(asked, num_devices=2, most=1)
    assert "caps" not in replace(scaling(asked, smaller), most_data_parallel=64).line


def test_a_search_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("hierlm.plan.search.SECONDS_BETWEEN_WORDS", 0)
    said: list[str] = []
    fastest(estimator("transformer", *SMALL), num_devices=2, most=1, tell=said.append)
    assert said and all("2 devices: " in line and "layouts seen" in line for line in said)


def test_when_nothing_fits_more_devices_are_tried():
    tight = estimator("transformer", *SMALL, memory_bytes=2**20)
    layout = tight.config.parallel
    assert not tight.estimate(layout).fits
    num_devices, found = nearest_that_fit(tight, layout, most=3)
    assert num_devices > 1 and 0 < len(found) <= 3
    assert all(tight.estimate(each.layout).fits for each in found)


def test_a_number_that_no_layout_has_is_refused():
    with pytest.raises(UserError, match=r"no layout of 13 devices .* the batch caps data parallelism at 8 ranks"):
        fastest(estimator("transformer"), num_devices=13, most=5)


def test_changes_are_written_as_overrides():
    layout = config("transformer").parallel
    other = layout.model_copy(update={"tensor_parallel_degree": 2, "zero_stage": 1})
    assert changes(layout, other) == {"parallel.tensor_parallel_degree": 2, "parallel.zero_stage": 1}


def test_a_layout_that_is_found_can_be_typed():
    """Whatever the config says of its own layout: a cut that fits one number of stages fits no other."""
    overrides = (*SMALL, "parallel.pipeline_parallel_degree=2", "parallel.stage_cut=[1]")
    asked = estimator("transformer", *overrides)
    found = fastest(asked, num_devices=2, most=500)
    assert found
    for each in found:
        typed = (f"{key}={value}" for key, value in changes(asked.config.parallel, each.layout).items())
        assert config("transformer", *overrides, *typed).parallel == each.layout
