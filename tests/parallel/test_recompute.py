"""Recompute changes what is kept, never what is computed."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from hierlm.nn.basic.dropout import Dropout
from hierlm.nn.kernels import linear
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Layer
from hierlm.nn.stream import Stream
from hierlm.parallel.recompute import run_layers, unkept_products


class Block(Layer):
    def __init__(self, linear_class=nn.Linear, dropout=Dropout):
        super().__init__()
        self.expand, self.contract, self.drop = linear_class(8, 64), linear_class(64, 8), dropout(0.3)
        self.num_calls = 0

    def forward(self, stream, memory=None):
        self.num_calls += 1
        x = stream.hidden + memory[0]
        y = x + self.drop(self.contract(torch.relu(self.expand(x))))
        return stream.with_hidden(y), (memory[0] + 1,)


def layers(dropout=Dropout) -> dict[int, Layer]:
    torch.manual_seed(0)
    return {2: Block(dropout=dropout), 5: Block(dropout=dropout)}


def run(recompute: str, *, key=(7, 0, 0), dropout=Dropout):
    """(output, gradients, memories, bytes kept for the backward pass, calls of each layer)."""
    built, x = layers(dropout), torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))
    kept: dict[int, int] = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        memories = ((torch.zeros(1),), (torch.zeros(1),))
        stream, updated = run_layers(built, Stream((x,)), memories, draw_key=key, recompute=recompute)
    torch.manual_seed(99)  # a generator moved on between forward and backward, as other layers do
    stream.hidden.square().sum().backward()
    gradients = [p.grad for layer in built.values() for p in layer.parameters()]
    return stream.hidden.detach(), gradients, updated, sum(kept.values()), [b.num_calls for b in built.values()]


@pytest.mark.parametrize("dropout", [Dropout, nn.Dropout])
@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_outputs_gradients_and_draws_are_bit_for_bit_the_same(recompute, dropout):
    """A layer that knows nothing of our draws, too."""
    expected, found = run("none", dropout=dropout), run(recompute, dropout=dropout)
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(a, b) for a, b in zip(found[1], expected[1], strict=True))


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_layers_run_twice_but_memory_is_updated_once(recompute):
    _, _, memories, _, num_calls = run(recompute)
    assert num_calls == [2, 2]
    assert [float(memory[0]) for memory in memories] == [1.0, 1.0]


class FetchesOftener(Block):
    """As ZeRO 3 does where it has fetched weights ahead the first time."""

    def forward(self, stream, memory=None):
        with torch.no_grad():
            weights = list(self.parameters())
            for _ in range(self.num_calls):
                torch.cat([weight.flatten() for weight in weights], out=torch.empty(0))
        return super().forward(stream, memory)


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_what_is_fetched_inside_a_layer_may_differ_between_its_computations(recompute):
    torch.manual_seed(0)
    layer, x = FetchesOftener(), torch.randn(4, 6, 8)
    stream, _ = run_layers({2: layer}, Stream((x,)), [(torch.zeros(1),)], draw_key=(7, 0, 0), recompute=recompute)
    stream.hidden.sum().backward()
    assert layer.num_calls == 2 and all(weight.grad is not None for weight in layer.parameters())


def test_full_recompute_keeps_less():
    assert run("full")[3] < run("none")[3] / 2


@pytest.mark.parametrize("linear_class", [nn.Linear, Linear])
def test_selective_recompute_repeats_no_kept_product(linear_class, monkeypatch):
    """Whichever library makes them."""
    monkeypatch.setattr(linear, "LEAST_MULTIPLICATIONS", 1)
    monkeypatch.setattr(linear, "has_slow_blas", lambda: linear.fused_product is not None)
    kind = partial(Block, linear_class=linear_class)
    assert count_products("none", kind=kind) == count_products("selective", kind=kind)
    assert count_products("selective", kind=kind) < count_products("full", kind=kind)


def test_products_that_change_in_place_are_repeated():
    class Summed(Block):
        def forward(self, stream, memory=None):
            with unkept_products():
                return super().forward(stream, memory)

    assert count_products("selective", kind=Summed) == count_products("full", kind=Summed)


def count_products(recompute: str, *, kind: Callable[[], Block] = Block) -> int:
    """Matrix products that ran in forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    products = {torch.ops.aten.addmm.default, torch.ops.aten.mm.default}
    products |= set() if linear.fused_product is None else {linear.fused_product.default}

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            self.count += operator in products
            return operator(*args, **(kwargs or {}))

    layer, x = kind(), torch.randn(4, 8, requires_grad=True)
    with Counter() as counter:
        stream, _ = run_layers({0: layer}, Stream((x,)), ((torch.zeros(1),),), draw_key=(0, 0, 0), recompute=recompute)
        stream.hidden.sum().backward()
    return counter.count


def test_draws_depend_on_the_key_and_the_layer_only():
    first, again, other = run("none"), run("none"), run("none", key=(7, 1, 0))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def test_without_a_key_the_generator_is_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    with torch.no_grad():
        built = {i: layer.eval() for i, layer in layers().items()}
        torch.manual_seed(3)
        run_layers(built, Stream((torch.zeros(1, 1, 8),)), ((torch.zeros(1),), (torch.zeros(1),)))
    assert torch.equal(torch.rand(1), expected)
