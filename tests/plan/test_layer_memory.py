"""What layers keep is seen, not guessed, and seen on the meta device as it is on real tensors."""

from dataclasses import astuple, replace
from functools import partial

import pytest
import torch

from hierlm.models.assembly import layer_specs
from hierlm.plan import layer_memory
from hierlm.plan.layer_memory import profile
from hierlm.plan.representatives import representatives
from tests.plan.making import setting

SEEN_ON_META = ("transformer", "hourglass", "transformer_xl", "bottom_up", "top_down", "retina", "lmu")


def kept(found) -> list[int]:
    return [layer.kept for layer in found.layers]


@pytest.mark.parametrize("arch", SEEN_ON_META)
def test_the_meta_device_sees_what_real_tensors_do(arch):
    wanted = setting(arch)
    real = layer_memory._run(wanted, device=torch.device("cpu"), rows=wanted.rows)
    for seen, true in zip(profile(wanted).layers, real.layers, strict=True):
        assert seen.kept == pytest.approx(true.kept, rel=0.02)
        assert (seen.memory, seen.output) == (true.memory, true.output)


@pytest.mark.parametrize("arch", ["dynamic_pooling", "skip_cross_head_xl"])
def test_a_model_whose_shapes_depend_on_data_is_run_and_said_to_be(arch):
    found = profile(setting(arch))
    assert found.is_extrapolated and sum(kept(found)) > 0


def test_recompute_keeps_less_the_more_it_recomputes():
    none, selective, full = (
        sum(kept(profile(setting("hourglass", recompute=r)))) for r in ("none", "selective", "full")
    )
    assert full < selective < none


def test_rows_follow_from_one_and_two():
    long = "phases.0.sequence_length=384"  # beside it the tiles of attention, the same for any rows, are small
    one, two, five = (profile(setting("transformer_xl", long, rows=rows)) for rows in (1, 2, 5))
    found = one.extrapolated(two, at=(1, 2), rows=5)
    assert kept(found) == kept(five)
    for guess, true in zip(found.layers, five.layers, strict=True):  # a peak may lie elsewhere with more rows
        assert astuple(guess) == pytest.approx(astuple(true), rel=0.1)


@pytest.mark.parametrize("arch", ["transformer", "transformer_xl"])
def test_of_equal_layers_one_stands_for_many(arch, monkeypatch):
    wanted = setting(arch, "model.num_layers=7")
    short = profile(wanted)
    monkeypatch.setattr("hierlm.plan.representatives.MOST_ALIKE", 100)
    assert representatives(layer_specs(wanted.model)) == list(range(len(short.layers)))
    assert profile(wanted) == short


def test_layers_that_differ_stand_for_themselves():
    a, b = partial(dict, x=1), partial(dict, x=2)
    assert representatives([a, a, a, a, a, b, a]) == [0, 1, 1, 1, 4, 5, 6]


def test_two_tensor_parallel_ranks_hold_half_of_what_is_sliced():
    one, two = (profile(setting("transformer", tp_degree=tp)) for tp in (1, 2))
    whole, half = (sum(layer.own for layer in found.weights) for found in (one, two))
    assert whole / 2 < half < whole * 0.55
    assert two.logits == one.logits / 2
    assert all(layer.sent_forward > 0 for layer in two.traffic[:-2])  # not the norm
    assert two.traffic[-2].sent_forward == 0
    assert all(layer.sent_forward == layer.sent_backward == 0 for layer in one.traffic)


@pytest.mark.parametrize("tp_degree", [1, 2])
def test_logits_in_chunks_never_exist_whole(tp_degree):
    vocabulary, tokens = "model.vocab_size=8192", 2 * 48
    whole, chunked = (
        profile(setting("transformer", vocabulary, tp_degree=tp_degree, loss_chunk_tokens=chunk)) for chunk in (None, 8)
    )
    logits = tokens * 8192 * 4 // tp_degree
    assert whole.logits == whole.left_at_loss == logits
    assert chunked.logits == 0 and chunked.layers[-1].kept == 0
    assert chunked.left_at_loss == tokens * 64 * 4  # what the norm leaves
    head_gradients = 3 * 4 * chunked.weights[-1].own  # of a chunk, and the sum before and after it
    assert head_gradients < chunked.loss_peak < head_gradients + logits / 2
    again = chunked.traffic[-1].sent_backward - whole.traffic[-1].sent_backward
    assert again == chunked.traffic[-1].sent_forward == whole.traffic[-1].sent_forward  # of the cross entropy alone


def test_a_gpu_makes_no_copies_of_the_logits_in_fp32():
    found = profile(setting("transformer", "model.vocab_size=8192", bf16=True, on_gpu=True))
    assert found.logits == 2 * 48 * 8192 * 2
    assert found.loss_peak < 1.1 * found.logits + 2 * found.weights[-1].own  # their gradient, and that of the weight


def test_a_block_makes_more_than_it_keeps_and_as_many_results_whatever_its_rows():
    one, two = (profile(setting("transformer", rows=rows)).layers[1] for rows in (1, 2))
    assert one.made > one.kept > 0
    assert two.made > 1.5 * one.made
    assert two.kernels == one.kernels > 0


def test_a_fused_lstm_is_not_counted_step_by_step():
    assert {layer.kernels for layer in profile(setting("lstm")).layers[1:-1]} == {0}


def test_a_fused_lstm_has_a_plan_under_every_recompute():
    none, selective = (sum(kept(profile(setting("lstm", recompute=recompute)))) for recompute in ("none", "selective"))
    assert 0 < selective < none


@pytest.mark.parametrize(("recompute", "between"), [("none", 4), ("full", 1)])
def test_sequence_parallel_ranks_keep_a_share_of_what_lies_between_slices(recompute, between):
    """`between`: whole tensors a block keeps, two norms' outputs and two sums, or what goes in."""
    size = ("model.num_layers=6", "model.vocab_size=16")
    plain, shared = (
        profile(setting("transformer", *size, tp_degree=4, recompute=recompute, sequence_parallel=is_on))
        for is_on in (False, True)
    )
    whole = 2 * 48 * 64 * 4  # bytes of hidden
    for before, after in list(zip(plain.layers, shared.layers, strict=True))[2:-3]:
        assert before.kept - after.kept == pytest.approx(between * whole * 3 / 4, rel=0.1)
        assert before.output == after.output  # a pipeline's boundary sends all of it


def test_a_width_that_the_degree_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="does not divide the 64"):
        profile(setting("transformer", tp_degree=3))


def test_bf16_halves_what_is_kept():
    full, half = (sum(kept(profile(setting("transformer", bf16=bf16)))) for bf16 in (False, True))
    assert half == pytest.approx(full / 2, rel=0.1)


def test_tied_weights_are_borrowed():
    found = profile(setting("transformer", "model.tie_embeddings=true"))
    assert [b.owner for b in found.weights[-1].borrowed] == [0]
    assert found.weights[-1].own == 0


def test_train_switches_of_the_phase_count():
    short = setting("transformer_xl")
    longer = replace(short, phase=short.phase.model_copy(update={"model": {"memory_length": 200}}))
    assert sum(layer.memory for layer in profile(longer).layers) > sum(layer.memory for layer in profile(short).layers)
