"""Losses of layers get their gradient, and change nothing else."""

import math

import pytest
import torch

from hierlm.nn.report import Report
from hierlm.nn.stream import Stream
from hierlm.parallel.boundary import Packer
from hierlm.parallel.layer_losses import beside, joined, weighted_loss

D = 3


def reports(weight: torch.nn.Parameter) -> list[Report]:
    rows = torch.arange(8.0).view(2, 4)[:, :D]
    return [
        Report("a", "loss", (rows * weight).sum(1), weight=2.0),
        Report("b", "loss", (rows * weight**2).sum(1), weight=0.5),
        Report("watched", "mean", (rows * weight).sum(1)),
    ]


def test_what_is_added_is_the_weighted_mean_over_rows_of_losses_alone():
    weight = torch.nn.Parameter(torch.ones(D))
    assert weighted_loss(reports(weight)).item() == pytest.approx(2.0 * (3 + 15) / 2 + 0.5 * (3 + 15) / 2)
    assert weighted_loss(reports(weight)[2:]) is None
    with torch.no_grad():
        assert weighted_loss(reports(weight)) is None


def test_beside_the_objective_it_has_a_gradient_and_no_value():
    weight, other = torch.nn.Parameter(torch.ones(D)), torch.nn.Parameter(torch.ones(()))
    added = weighted_loss(reports(weight))
    total = beside(other * 5, added)
    total.backward()
    [expected] = torch.autograd.grad(weighted_loss(reports(weight)), [weight])
    assert total.item() == 5 and other.grad.item() == 5
    assert torch.equal(weight.grad, expected)
    assert beside(other, None) is other


@pytest.mark.parametrize("lengths", [(4,), (4, 2)])
def test_joined_to_what_a_stage_sends_it_gets_its_share_and_the_levels_their_own(lengths):
    weight = torch.nn.Parameter(torch.ones(D))
    levels = tuple(torch.ones(2, n, D, requires_grad=True) for n in lengths)
    payload = Packer().pack(Stream(levels))
    found = joined(payload, weighted_loss(reports(weight)), share=1 / 4)
    sent, plain = (p if isinstance(p, torch.Tensor) else p[0] for p in (found, payload))
    assert torch.equal(sent, plain)
    gradient = torch.randn_like(sent)
    sent.backward(gradient)
    [expected] = torch.autograd.grad(weighted_loss(reports(weight)), [weight])
    assert torch.allclose(weight.grad, expected / 4)
    assert torch.equal(torch.cat([level.grad.flatten() for level in levels]), gradient.flatten())


def test_joined_to_what_needs_no_gradient_it_still_gets_its_own():
    weight = torch.nn.Parameter(torch.ones(D))
    sent = joined(torch.ones(2, 3), weighted_loss(reports(weight)), share=1.0)
    sent.backward(torch.zeros(2, 3))
    assert weight.grad.abs().min() > 0


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_spoils_its_gradient(value):
    weight = torch.nn.Parameter(torch.ones(D))
    added = (weight.sum() + 1) * 1.0 + value
    joined(torch.ones(2), added, share=1.0).sum().backward()
    assert weight.grad.isnan().all()
    assert beside(torch.ones(()), added).isnan()
