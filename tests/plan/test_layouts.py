"""Only layouts that can run are proposed, and those that fit, fastest first."""

import pytest

from hierlm.config import rules
from hierlm.errors import UserError
from hierlm.plan.device import USABLE_MEMORY
from hierlm.plan.layouts import candidates, changes, fastest, nearest_that_fit
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


def test_the_fastest_come_first_and_only_what_fits():
    roomy = estimator("transformer", *SMALL)
    found = fastest(roomy, num_devices=2, most=500)
    seconds = [each.seconds for each in found]
    assert seconds == sorted(seconds) and all(each.fits for each in found)
    peaks = sorted(each.peak_bytes for each in found)
    tight = estimator("transformer", *SMALL, memory_bytes=int(peaks[len(peaks) // 2] / USABLE_MEMORY) + 1)
    assert 0 < len(fastest(tight, num_devices=2, most=500)) < len(found)


def test_when_nothing_fits_more_devices_are_tried():
    tight = estimator("transformer", *SMALL, memory_bytes=2**20)
    layout = tight.config.parallel
    assert not tight.estimate(layout).fits
    num_devices, found = nearest_that_fit(tight, layout, most=3)
    assert num_devices > 1 and 0 < len(found) <= 3
    assert all(tight.estimate(each.layout).fits for each in found)


def test_a_number_that_no_layout_has_is_refused():
    with pytest.raises(UserError, match="no layout of 13 devices"):
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
