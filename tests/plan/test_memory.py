"""Bytes of a rank: partitions, micro-batches in flight, and the worst moment."""

import inspect

import pytest

from hierlm.plan.zero_memory import ENGINE_BUFFER, MOST_GATHERED, Kind, holdings
from tests.plan.making import estimator

VALUES = 1000


def test_what_is_not_set_in_a_run_is_as_deepspeed_has_it():
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    import hierlm.parallel.light_imports  # noqa: F401 - first: it tells DeepSpeed what it runs on

    assert DeepSpeedZeroConfig().max_live_parameters == MOST_GATHERED
    reduction = inspect.signature(DeepSpeedEngine.buffered_allreduce_fallback).parameters
    assert reduction["elements_per_buffer"].default == ENGINE_BUFFER


def held(**changes):
    kind = {"stage": 1, "bf16": True, "dp_degree": 4, "pipeline": False, "micro_batches": 1, **changes}
    return holdings(Kind(**kind), values=VALUES, largest=100, largest_layer=300)


@pytest.mark.parametrize(("stage", "weights", "gradients", "optimizer"), [
    (1, 2 * VALUES, 4 * VALUES, 3 * VALUES),  # 12 bytes over 4 ranks
    (2, 2 * VALUES, 0, 3 * VALUES),
    (3, 2 * VALUES // 4, VALUES + 2 * VALUES, 3 * VALUES),  # a share in fp32, a bucket in bf16
])  # fmt: skip
def test_bf16_partitions_what_its_stage_says(stage, weights, gradients, optimizer):
    found = held(stage=stage)
    assert (found.weights, found.gradients_always, found.optimizer) == (weights, gradients, optimizer)


def test_fp32_without_zero_holds_sixteen_bytes_a_value():
    found = held(stage=0, bf16=False)
    assert found.weights + found.optimizer + found.gradients_per_value * VALUES == 16 * VALUES


def test_fp32_with_zero_1_holds_a_second_copy():
    assert held(bf16=False, dp_degree=1).optimizer == 12 * VALUES


@pytest.mark.parametrize(("stage", "bf16"), [(0, False), (1, False), (1, True), (2, True), (3, True)])
def test_an_optimizer_with_one_state_needs_four_bytes_a_value_less(stage, bf16):
    dp_degree = 4 if stage else 1
    found = [held(stage=stage, bf16=bf16, dp_degree=dp_degree, num_states=states).optimizer for states in (1, 2)]
    assert found[1] - found[0] == 4 * VALUES // dp_degree


def test_the_plan_asks_the_optimizer_how_much_it_keeps():
    def optimizer_bytes(name):
        found = estimator("transformer", f"optim.name={name}")
        return found.estimate(found.config.parallel).phases[0].stages[0]

    adamw, lion = map(optimizer_bytes, ("adamw", "lion"))
    assert adamw.peak.optimizer - lion.peak.optimizer == 4 * adamw.num_values


def test_what_is_offloaded_is_not_on_the_device():
    assert held(stage=3, offload="optimizer").optimizer == 0
    assert held(stage=3, offload="parameters").weights == 0


def pipeline(*overrides):
    words = ("parallel.pipeline_parallel_degree=3", "model.num_layers=4", *overrides)
    found = estimator("transformer", *words)
    return found.estimate(found.config.parallel).phases[0]


@pytest.mark.parametrize(("micro_batch_size", "in_flight"), [(1, [3, 2, 1]), (4, [2, 2, 1]), (8, [1, 1, 1])])
def test_a_stage_has_as_many_micro_batches_in_flight_as_stages_follow(micro_batch_size, in_flight):
    phase = pipeline(f"parallel.micro_batch_size={micro_batch_size}")
    assert [stage.in_flight for stage in phase.stages] == in_flight


def test_parts_add_up_to_the_peak_and_every_layer_is_held_once():
    phase = pipeline("parallel.micro_batch_size=2")
    for stage in phase.stages:
        parts = {k: v for k, v in stage.document()["peak_bytes"].items() if k not in ("moment", "total")}
        assert sum(parts.values()) == stage.peak.total
    assert [index for stage in phase.stages for index in stage.layers] == list(range(7))


def test_gradients_are_told_apart_from_workspace():
    """Of a model whose weights are most of its memory, which is fullest at the end of a step."""
    found = estimator("transformer", "phases.0.global_batch_size=1", "phases.0.sequence_length=2")
    (stage,) = found.estimate(found.config.parallel).phases[0].stages
    assert stage.peak.moment in {"gradient reduction", "optimizer update"}
    assert stage.peak.gradients == 4 * stage.num_values


def test_a_tied_weight_is_held_at_both_ends_of_the_pipeline():
    free, tied = (pipeline(f"model.tie_embeddings={tie}") for tie in ("false", "true"))
    assert [stage.num_values for stage in tied.stages] == [stage.num_values for stage in free.stages]


def test_a_tied_weight_is_held_once_on_one_stage():
    def values(tie: str) -> int:
        found = estimator("transformer", f"model.tie_embeddings={tie}")
        return found.estimate(found.config.parallel).phases[0].stages[0].num_values

    assert values("false") - values("true") == 256 * 64


def test_more_micro_batches_keep_less_and_shrink_the_bubble():
    few, many = pipeline("parallel.micro_batch_size=4"), pipeline("parallel.micro_batch_size=1")
    assert many.fullest.peak.activations < few.fullest.peak.activations
    assert many.time.bubble < few.time.bubble


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_an_update_that_is_not_fused_makes_more_of_what_it_updates(stage):
    fused, plain = (held(stage=stage, bf16=stage > 0, num_temporaries=number) for number in (0, 1))
    assert plain.update - fused.update == 4 * (VALUES // 4 if stage else VALUES)


def test_a_rank_of_stage_3_is_built_in_the_room_of_its_part_and_two_layers():
    for bf16, working in ((True, 2), (False, 4)):
        built = held(stage=3, bf16=bf16).building
        assert built == (working + 4) * VALUES // 4 + 2 * 4 * 300
        assert built < held(stage=2, bf16=bf16).building
