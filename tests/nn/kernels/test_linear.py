"""Large float32 products of a linear layer on an AMD processor: another library, the same numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from hierlm.config.load import load_config
from hierlm.costs.flops import layer_costs
from hierlm.nn.kernels import linear
from hierlm.nn.kernels.linear import Linear, fused_product

ROWS = (3, 40)

pytestmark = pytest.mark.skipif(fused_product is None, reason="this build of torch has no oneDNN")


@pytest.fixture(autouse=True)
def every_product_suits(monkeypatch):
    """Whatever its size and the processor."""
    monkeypatch.setattr(linear, "LEAST_MULTIPLICATIONS", 1)
    monkeypatch.setattr(linear, "has_slow_blas", lambda: True)


def layers(num_in: int, num_out: int, *, bias: bool) -> tuple[Linear, nn.Linear]:
    torch.manual_seed(0)
    ours, plain = Linear(num_in, num_out, bias=bias), nn.Linear(num_in, num_out, bias=bias)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def uses_onednn(layer: nn.Module, x: torch.Tensor) -> bool:
    with FlopCounterMode(display=False, custom_mapping={fused_product: lambda *_, **__: 1}) as counter:
        layer(x)
    return fused_product in counter.get_flop_counts()["Global"]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("num_in", "num_out"), [(24, 24), (16, 64), (64, 16)])
def test_outputs_and_gradients_are_those_of_a_plain_layer(num_in, num_out, bias):
    ours, plain = layers(num_in, num_out, bias=bias)
    x = torch.randn(*ROWS, num_in)
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = ours(own), plain(other)
    weights = torch.randn_like(found).transpose(0, 1).contiguous().transpose(0, 1)  # a gradient need not be contiguous
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(own.grad, other.grad)
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    assert uses_onednn(ours, x) and not uses_onednn(plain, x)


def test_rows_that_lie_apart_in_memory_are_multiplied_too():
    ours, plain = layers(16, 8, bias=True)
    x = torch.randn(40, 3, 16).transpose(0, 1)
    torch.testing.assert_close(ours(x), plain(x))


@pytest.mark.parametrize(("num_in", "num_out"), [(16, 64), (64, 16)])
def test_the_library_is_given_no_weight_with_gaps_in_memory(num_in, num_out, monkeypatch):
    """Which would be a thousand times slower: rows that are parts of longer ones, gradients that are one number."""
    weights, product = [], linear.fused_product

    def watched(x, weight, *rest):
        weights.append(weight)
        return product(x, weight, *rest)

    monkeypatch.setattr(linear, "fused_product", watched)
    ours, _ = layers(num_in, num_out, bias=False)
    ours(torch.randn(*ROWS, 2 * num_in, requires_grad=True)[..., :num_in]).sum().backward()
    torch.cat((ours(torch.randn(*ROWS, num_in)), torch.ones(*ROWS, 3)), dim=-1).square().sum().backward()
    assert len(weights) == 5
    assert all(weight.is_contiguous() or weight.t().is_contiguous() for weight in weights)


@pytest.mark.parametrize("frozen", ["weight", "input"])
def test_what_needs_no_gradient_is_given_none(frozen):
    ours, plain = layers(16, 8, bias=False)
    x = torch.randn(*ROWS, 16, requires_grad=frozen == "weight")
    gradients = []
    for layer in (ours, plain):
        layer.weight.requires_grad_(frozen == "input")
        x.grad = None
        layer(x).square().sum().backward()
        gradients.append((x.grad, layer.weight.grad))
    assert [g is None for g in gradients[0]] == [g is None for g in gradients[1]]
    for mine, theirs in zip(*gradients, strict=True):
        if mine is not None:
            torch.testing.assert_close(mine, theirs)


def test_the_plan_counts_its_products_too(monkeypatch):
    """Of an architecture whose shapes depend on the data, which is run on real tensors to be counted."""
    config = load_config("configs/tiny/dynamic_pooling.yaml").model
    costs = []
    for suits in (True, False):
        monkeypatch.setattr(linear, "has_slow_blas", lambda suits=suits: suits)
        costs.append([layer.forward_flops for layer in layer_costs(config, sequence_length=64)])
    assert costs[0] == costs[1] and sum(costs[0]) > 0


def test_it_can_be_recomputed():
    ours, plain = layers(16, 16, bias=True)
    x = torch.randn(*ROWS, 16, requires_grad=True)
    checkpoint(lambda x: F.gelu(ours(x)), x, use_reentrant=False).sum().backward()
    F.gelu(plain(x)).sum().backward()
    torch.testing.assert_close(ours.weight.grad, plain.weight.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_left_to_torch(dtype):
    ours, _ = layers(16, 8, bias=True)
    assert not uses_onednn(ours.to(dtype), torch.randn(*ROWS, 16, dtype=dtype))


def test_autocast_is_obeyed():
    ours, _ = layers(16, 8, bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(torch.randn(*ROWS, 16)).dtype == torch.bfloat16


def test_small_products_are_left_to_torch(monkeypatch):
    ours, _ = layers(16, 8, bias=True)
    for idle, multiplications in (
        (False, 3 * 40 * 16 * 8),
        (True, 2 * 3 * 40 * 16 * 8),
    ):
        monkeypatch.setattr(linear, "leaves_avx512_idle", lambda idle=idle: idle)
        for more, is_used in ((0, True), (2, False)):
            monkeypatch.setattr(linear, "LEAST_MULTIPLICATIONS", multiplications + more)
            assert uses_onednn(ours, torch.randn(*ROWS, 16)) == is_used
