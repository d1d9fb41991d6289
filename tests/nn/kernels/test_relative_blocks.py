"""Relative attention in tiles against the same formula at once, values and every gradient."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hierlm.nn.attention.relative_attention import (
    RelativeAttention,
    Sight,
    consecutive_sight,
    gapped_sight,
    two_way_sight,
)
from hierlm.nn.kernels import relative_blocks
from hierlm.nn.kernels.relative_blocks import Operands, attend_in_tiles
from tests.nn.attention.test_relative_attention import _memory

B, D, H = 2, 16, 4


@pytest.fixture(params=[(2, 1), (3, 4000), (64, 2**19)], ids=["pairs", "threes", "as_trained"])
def tiles(request, monkeypatch):
    """Small tiles, so that tiny sizes have many of them, with uneven ones at the ends; and those of training."""
    queries, size = request.param
    monkeypatch.setattr(relative_blocks, "QUERIES_PER_TILE", queries)
    monkeypatch.setattr(relative_blocks, "TILE_BYTES_PER_THREAD", size)


@pytest.fixture
def at_once(monkeypatch):
    """Calls a function with the tiles switched off."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(relative_blocks, "is_fastest", lambda _: False)
            return function(*args)

    return call


def _attention(dtype=torch.float64, **changes) -> RelativeAttention:
    torch.manual_seed(0)
    module = RelativeAttention(hidden_dim=D, num_heads=H, **{"dropout": 0.0, "attention_dropout": 0.0, **changes})
    return module.to(dtype)


def _inputs(num_queries, num_slots, *, dtype=torch.float64):
    return [torch.randn(B, length, D, dtype=dtype, requires_grad=True) for length in (num_queries, num_slots)]


def _output_and_gradients(attention, x, past, sight):
    inputs = [x, past, *attention.parameters()]
    output = attention(x, past, sight)
    mixed = (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum()
    return [output.detach(), *torch.autograd.grad(mixed, inputs)]


def _filled(num_slots):
    """One row has seen nothing, the other has a full memory."""
    return torch.tensor([[False], [True]]).expand(B, num_slots)


SIGHTS = {
    "memory": (5, 7, lambda: consecutive_sight(_filled(7), 5)),
    "same_length": (5, 7, lambda: consecutive_sight(_filled(7), 5).same_length(3)),
    "clamped": (5, 7, lambda: consecutive_sight(_filled(7), 5).clamped(4)),
    "no_memory": (6, 0, lambda: consecutive_sight(_filled(0), 6)),
    "one_query": (1, 4, lambda: consecutive_sight(_filled(4), 1)),
    "both_ways": (6, 0, lambda: two_way_sight(torch.ones(1, 1, 6, 6, dtype=torch.bool))),
    "both_ways_by_row": (6, 3, lambda: two_way_sight(torch.rand(B, 1, 6, 9) > 0.4)),
    "over_a_tile": (70, 3, lambda: consecutive_sight(_filled(3), 70)),
}


@pytest.mark.parametrize("kind", SIGHTS)
@pytest.mark.usefixtures("tiles")
def test_tiles_equal_one_product_in_output_and_all_gradients(kind, at_once):
    num_queries, num_slots, make_sight = SIGHTS[kind]
    torch.manual_seed(1)
    attention, (x, past), sight = _attention(), _inputs(num_queries, num_slots), make_sight()
    found = _output_and_gradients(attention, x, past, sight)
    for ours, expected in zip(found, at_once(_output_and_gradients, attention, x, past, sight), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def _operands(num_queries, num_keys, num_waves, *, dtype=torch.float64):
    torch.manual_seed(2)
    lengths = (num_queries, num_queries, num_keys, num_keys)
    of_rows = [torch.randn(B, H, length, 3, dtype=dtype, requires_grad=True) for length in lengths]
    return Operands(*of_rows, torch.randn(H, num_waves, 3, dtype=dtype, requires_grad=True))


@pytest.mark.parametrize("num_waves", [5, 7])  # none ahead of a query; as many as there are queries but one
@pytest.mark.usefixtures("tiles")
def test_gradients_by_finite_differences(num_waves):
    visible = torch.ones(3, 5, dtype=torch.bool).tril(2)[None, None]
    operands = _operands(3, 5, num_waves)
    assert torch.autograd.gradcheck(lambda *parts: attend_in_tiles(Operands(*parts), visible), tuple(operands))


def test_a_query_that_sees_nothing_gets_zeros_and_gives_no_gradient():
    visible = torch.ones(1, 1, 3, 5, dtype=torch.bool).tril(2)
    visible[:, :, 1] = False
    operands = _operands(3, 5, 5)
    output = attend_in_tiles(operands, visible)
    assert output[:, :, 1].eq(0).all() and output[:, :, [0, 2]].ne(0).all()
    gradients = torch.autograd.grad(output.sum() + output[:, :, 1].square().sum(), operands)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0][:, :, 1].eq(0).all() and gradients[1][:, :, 1].eq(0).all()


def test_nothing_is_taken_from_keys_that_are_hidden():
    visible = torch.ones(1, 1, 4, 6, dtype=torch.bool).tril(2)
    operands = _operands(4, 6, 6)
    changed = operands._replace(keys=operands.keys.detach().clone(), values=operands.values.detach().clone())
    changed.keys[:, :, 4:] = 50.0
    changed.values[:, :, 4:] = 50.0
    before, after = attend_in_tiles(operands, visible), attend_in_tiles(changed, visible)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert (before - after)[:, :, 2:].abs().max() > 1


def test_half_precision_sums_in_single_precision(at_once):
    attention, (x, past) = _attention(torch.bfloat16), _inputs(70, 5, dtype=torch.bfloat16)
    sight = consecutive_sight(_filled(5), 70)
    found = _output_and_gradients(attention, x, past, sight)
    for ours, expected in zip(found, at_once(_output_and_gradients, attention, x, past, sight), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours - expected).abs().max() <= 0.02 * expected.abs().max()


def test_recomputed_activations_give_the_same_gradients():
    attention, (x, past) = _attention(), _inputs(5, 7)
    sight = consecutive_sight(_filled(7), 5)
    kept = _output_and_gradients(attention, x, past, sight)

    class Recomputed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = attention

        def forward(self, *args):
            return checkpoint(self.inner, *args, use_reentrant=False)

    for ours, expected in zip(_output_and_gradients(Recomputed(), x, past, sight), kept, strict=True):
        assert torch.equal(ours, expected)


def _kept_bytes(attention, x, past, sight) -> int:
    """Of distinct storages held for the backward pass."""
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(x, past, sight)
    return sum(storages.values())


def test_no_scores_are_kept_for_the_backward_pass(at_once):
    length = 128
    attention, (x, past) = _attention(torch.float32), _inputs(length, length, dtype=torch.float32)
    sight = consecutive_sight(_filled(length), length)
    scores = B * H * length * 2 * length * 4
    assert _kept_bytes(attention, x, past, sight) < scores / 2
    assert at_once(_kept_bytes, attention, x, past, sight) > scores


def _is_tiled(attention, x, past, sight, monkeypatch) -> bool:
    calls = []

    def counted(*args):
        calls.append(args)
        return attend_in_tiles(*args)

    monkeypatch.setattr(relative_blocks, "attend_in_tiles", counted)
    attention(x, past, sight)
    return bool(calls)


def _gapped() -> Sight:
    return gapped_sight(_memory(3, 3, gap=2), 4)


def test_tiles_are_taken_where_a_fused_kernel_takes_no_learned_bias(monkeypatch):
    (x, past), sight = _inputs(4, 3), consecutive_sight(_filled(3), 4)
    plain, dropping = _attention(), _attention(attention_dropout=0.5)
    assert _is_tiled(plain, x, past, sight, monkeypatch)
    assert _is_tiled(dropping.eval(), x, past, sight, monkeypatch)
    assert not _is_tiled(dropping.train(), x, past, sight, monkeypatch)
    assert not _is_tiled(plain, x, past, _gapped(), monkeypatch)
    with torch.no_grad():
        assert not _is_tiled(plain, x, past, sight, monkeypatch)
