"""What makes a step be left out, and how such steps are counted."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierlm.parallel.skipped_steps import Skipped, spoiling_if_not_finite


@given(st.lists(st.booleans()))
def test_the_counts_are_all_and_those_at_the_end(steps: list[bool]) -> None:
    counts = Skipped()
    for is_skipped in steps:
        counts = counts.after(is_skipped)
    at_the_end = len(steps) if all(steps) else steps[::-1].index(False)
    assert counts == Skipped(sum(steps), at_the_end)


@pytest.mark.parametrize("nats", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_spoils_gradients_that_are(nats: float) -> None:
    weight = torch.ones(3, requires_grad=True)
    spoiling_if_not_finite(weight.sum() + nats).backward()
    assert weight.grad is not None and weight.grad.isnan().all()


def test_a_finite_loss_and_its_gradient_are_left_alone() -> None:
    weight = torch.tensor([0.1, 0.7], requires_grad=True)
    loss = spoiling_if_not_finite((weight**3).sum())
    loss.backward()
    plain = torch.tensor([0.1, 0.7], requires_grad=True)
    expected = (plain**3).sum()
    expected.backward()
    assert loss.equal(expected) and weight.grad is not None and weight.grad.equal(plain.grad)
