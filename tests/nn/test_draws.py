"""What is drawn belongs to a row, a site, a layer and a step: to nothing that a layout decides."""

import itertools

import pytest
import torch

from hierlm.nn.basic.dropout import Dropout, SharedDropout, number_sites
from hierlm.nn.draws import Draws, drawing, kept_of_rows, kept_of_step, uniform_of_rows

SHAPE = (6, 5, 8)


def kept(shape=SHAPE, *, first_row=0, step=3, layer=2, site=0, part=(), times=1):
    with drawing(Draws((7, step, first_row), layer=layer)):
        return [kept_of_rows(torch.empty(0), 0.75, shape=shape, site=site, part=part) for _ in range(times)][-1]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_micro_batches_draw_what_the_whole_batch_draws(size):
    parts = [kept((size, *SHAPE[1:]), first_row=first) for first in range(0, SHAPE[0], size)]
    assert torch.equal(torch.cat(parts), kept())


def test_a_row_padded_to_a_longer_one_keeps_its_numbers():
    """As the groups of a row are, where another row of its micro-batch has more of them."""
    large = (2, 900, 8)
    assert torch.equal(kept((2, 700, 8)), kept(large)[:, :700])
    with drawing(Draws((7, 0, 0), layer=0)):
        longer = [kept_of_rows(torch.empty(0), 0.5, shape=large, site=0) for _ in range(2)]
    with drawing(Draws((7, 0, 0), layer=0)):
        kept_of_rows(torch.empty(0), 0.5, shape=(2, 3, 8), site=0)
        assert torch.equal(kept_of_rows(torch.empty(0), 0.5, shape=large, site=0), longer[1])


@pytest.mark.parametrize("dim", [-1, -2, -3])
def test_parts_of_a_cut_dimension_make_up_the_whole(dim):
    whole = kept((2, 4, 6, 8))
    size = [*whole.shape]
    size[dim] //= 2
    parts = [kept(size, part=(dim, index, 2)) for index in range(2)]
    assert torch.equal(torch.cat(parts, dim=dim), whole)


def test_everything_a_draw_belongs_to_changes_it():
    drawn = [kept(), kept(first_row=6), kept(step=4), kept(layer=3), kept(site=1), kept(times=2)]
    rows = [row for one in drawn for row in one]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(rows, 2))


def test_the_share_is_kept_and_the_mean_stays():
    found = kept((4, 100, 100))
    assert sorted(found.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    assert float(found.mean()) == pytest.approx(1, abs=0.01)
    with drawing(Draws((7, 0, 0), layer=0)):
        numbers = uniform_of_rows(torch.empty(4, 2500), site=0)
    assert float(numbers.min()) >= 0 and float(numbers.max()) < 1
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.02)


def test_one_draw_of_the_step_is_that_of_every_layer_and_micro_batch():
    found = []
    for layer, first_row in ((0, 0), (5, 0), (5, 3)):
        with drawing(Draws((7, 1, first_row), layer=layer)):
            found.append([kept_of_step(torch.empty(4, 6), 0.5, site=layer) for _ in range(2)])
    assert all(torch.equal(a, b) for one in found for a, b in zip(one, found[0], strict=True))
    assert not torch.equal(*found[0])


def test_torch_s_generator_is_left_alone_inside_and_asked_outside():
    torch.manual_seed(1)
    kept()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    site, x = Dropout(0.5).train(), torch.ones(2, 50)
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        drawn.append(site(x))
    assert torch.equal(*drawn)
    assert not torch.equal(site(x), site(x))


@pytest.mark.parametrize("devices", [frozenset({"cpu"}), frozenset()])
def test_dropout_zeroes_or_scales_and_its_gradient_likewise(devices, monkeypatch):
    """Kept as numbers, or as bytes."""
    monkeypatch.setattr("hierlm.nn.draws.NUMBER_DEVICES", devices)
    x = torch.randn(3, 40, 7, requires_grad=True)
    with drawing(Draws((7, 1, 0), layer=0)):
        dropped = Dropout(0.25).train()(x)
    (dropped * torch.arange(7)).sum().backward()
    is_kept = dropped != 0
    assert 0.6 < float(is_kept.float().mean()) < 0.9
    torch.testing.assert_close(dropped, torch.where(is_kept, x / 0.75, 0.0))
    torch.testing.assert_close(x.grad, torch.where(is_kept, torch.arange(7) / 0.75, 0.0))


@pytest.mark.parametrize("kind", [Dropout, SharedDropout])
def test_a_compiled_site_draws_the_same(kind):
    layer = torch.nn.Sequential(kind(0.5), torch.nn.Tanh(), kind(0.5)).train()
    number_sites(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager_decomp_partition")  # without a break
    x = torch.randn(2, 9, 4, requires_grad=True)
    found = []
    for module in (layer, compiled):
        x.grad = None
        with drawing(Draws((7, 2, 4), layer=1)):
            y = module(x)
        y.square().sum().backward()
        found.append((y.detach(), x.grad.clone()))
    torch.testing.assert_close(*found)
