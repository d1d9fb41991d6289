"""Shortening and upsampling: special weights, gradients, and what each group may hold."""

import pytest
import torch

from hierlm.nn.resampling.downsampling import CausalExpansion, Downsample
from hierlm.nn.resampling.shortening import AveragePool, LinearPool, Shorten
from hierlm.nn.resampling.upsampling import LinearExpansion, Repeat, Upsample
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream

D = 8
SHAPE = BlockShape(
    hidden_dim=D, num_heads=2, ffn_dim=16, activation="gelu", positions="rotary", dropout=0.0, residual_scale=1.0
)


def vectors(length: int, *, width: int = D) -> torch.Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(length), dtype=torch.float64)


def test_linear_pooling_with_averaging_weights_is_average_pooling():
    linear = LinearPool(hidden_dim=D, factor=3).double()
    with torch.no_grad():
        linear.project.weight.copy_(torch.eye(D).repeat(1, 3) / 3)
        linear.project.bias.zero_()
    torch.testing.assert_close(linear(vectors(12), factor=3), AveragePool()(vectors(12), factor=3))


def test_linear_expansion_with_identity_weights_is_repetition():
    linear = LinearExpansion(hidden_dim=D, factor=3).double()
    with torch.no_grad():
        linear.project.weight.copy_(torch.eye(D).repeat(3, 1))
        linear.project.bias.zero_()
    torch.testing.assert_close(linear(vectors(4), factor=3), Repeat()(vectors(4), factor=3))


def test_group_m_is_the_mean_of_positions_mk_minus_k_plus_1_to_mk():
    x = vectors(8)
    shorten = Shorten(factor=3, shape=SHAPE, kind="average", query="average", stride=1).double()
    groups = shorten(Stream((x,)))[0].hidden
    assert groups.shape[1] == 3
    torch.testing.assert_close(groups[:, 0], x[:, 0] / 3)
    torch.testing.assert_close(groups[:, 1], x[:, 1:4].mean(dim=1))
    torch.testing.assert_close(groups[:, 2], x[:, 4:7].mean(dim=1))


@pytest.mark.parametrize("kind", ["average", "linear", "attention"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 12])
def test_a_vector_changes_only_its_own_and_later_groups(kind, length):
    shorten = Shorten(factor=3, shape=SHAPE, kind=kind, query="linear", stride=1).double()
    x = vectors(length)
    before = shorten(Stream((x,)))[0].hidden
    assert before.shape[1] == -(-length // 3)
    for position in range(length):
        changed = x.clone()
        changed[:, position] += vectors(99)[:, 0]
        own = -(-position // 3)
        after = shorten(Stream((changed,)))[0].hidden
        assert torch.equal(after[:, :own], before[:, :own])
        if own < before.shape[1]:
            assert not torch.allclose(after[:, own], before[:, own], rtol=1e-9)


@pytest.mark.parametrize("kind", ["average", "linear", "attention"])
def test_gradients_of_shortening(kind):
    shorten = Shorten(factor=3, shape=SHAPE, kind=kind, query="linear", stride=1).double()
    assert torch.autograd.gradcheck(lambda x: shorten(Stream((x,)))[0].hidden, vectors(5)[:1].requires_grad_())


@pytest.mark.parametrize(("kind", "query"), [("repeat", "saved"), ("linear", "saved"), ("attention", "linear")])
def test_gradients_of_upsampling(kind, query):
    upsample = Upsample(factor=3, shape=SHAPE, kind=kind, query=query, stride=1).double()
    fine, coarse = vectors(5)[:1].requires_grad_(), vectors(2)[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: upsample(Stream((x, y)))[0].hidden, (fine, coarse))


def test_a_factor_of_one_saves_a_copy_and_adds_it_back():
    x = vectors(5)
    pushed, _ = Shorten(factor=1, shape=SHAPE, kind="average", query="average", stride=1).double()(Stream((x,)))
    assert torch.equal(pushed.hidden, x)
    upsample = Upsample(factor=1, shape=SHAPE, kind="repeat", query="saved", stride=1).double()
    torch.testing.assert_close(upsample(pushed)[0].hidden, x + upsample.norm(x))


@pytest.mark.parametrize("kind", ["average", "convolution", "linear"])
def test_unit_m_ends_at_the_last_position_of_its_group(kind):
    pool = Downsample(kind, hidden_dim=D, factor=3, kernel_groups=2).double()
    x = vectors(10)
    before, _ = pool(x, pool.start(x))
    assert before.shape[1] == 3
    for position in range(10):
        changed = x.clone()
        changed[:, position] += 1.0
        after, _ = pool(changed, pool.start(x))
        touched = (after != before).any(dim=2).any(dim=0).tolist()
        reach = 2 if kind == "convolution" else 1
        assert touched == [0 <= unit - position // 3 < reach for unit in range(3)]


@pytest.mark.parametrize("kind", ["average", "convolution", "linear"])
def test_gradients_of_downsampling_and_expansion(kind):
    pool = Downsample(kind, hidden_dim=D, factor=2, kernel_groups=2).double()
    expand = CausalExpansion(hidden_dim=D, factor=2, is_linear=kind == "linear").double()

    def there_and_back(x: torch.Tensor) -> torch.Tensor:
        units, _ = pool(x, pool.start(x))
        return expand(units, num_fine=x.shape[1], unread=None)[0]

    assert torch.autograd.gradcheck(there_and_back, vectors(5)[:1].requires_grad_())


def test_position_i_reads_the_newest_whole_unit():
    expand = CausalExpansion(hidden_dim=1, factor=3, is_linear=False).double()
    with torch.no_grad():
        expand.null.fill_(-1.0)
    units = torch.arange(3, dtype=torch.float64)[None, :, None]
    read, _ = expand(units, num_fine=10, unread=None)
    assert read.flatten().tolist() == [-1, -1, 0, 0, 0, 1, 1, 1, 2, 2]
