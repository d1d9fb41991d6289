"""Attention whose weights are dropped one by one: without a drop it is attention, with one the weights are right."""

from dataclasses import replace

import pytest
import torch

from hierlm.nn.attention.multi_head import Attention
from hierlm.nn.attention.offset_attention import make_attention
from hierlm.nn.attention.positions import token_positions
from hierlm.nn.attention.visibility import Causal
from hierlm.nn.attention.weights_dropout import WeightsDropout
from hierlm.nn.basic.dropout import Dropout
from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.shape import BlockShape, Rate

SHAPE = BlockShape(
    hidden_dim=16, num_heads=2, ffn_dim=24, activation="relu", positions="rotary", dropout=0.0, residual_scale=1.0
)
NEARLY_NOTHING = 1e-12


def attended(attention: Attention, x: torch.Tensor, rule: Causal) -> torch.Tensor:
    positions = token_positions(x.shape[1], first=0, device=x.device)
    seen = attention.key_values(x, positions)
    return attention(x, positions, seen=seen, rule=rule)


@pytest.mark.parametrize("positions", ["rotary", "relative"])
@pytest.mark.parametrize("window", [None, 3])
def test_where_nothing_is_dropped_it_is_attention(positions, window):
    if positions == "relative" and window:
        return  # relative attention has no windows
    shape = replace(SHAPE, positions=positions, attention_dropout=Rate(NEARLY_NOTHING, "attention_dropout"))
    attention, x = make_attention(shape).double(), torch.randn(2, 7, 16, dtype=torch.float64)
    assert attention.train().weights_dropout.is_active
    found = attended(attention, x, Causal(window))
    torch.testing.assert_close(found, attended(attention.eval(), x, Causal(window)))


def test_dropped_weights_take_nothing_and_others_more():
    site = WeightsDropout(Rate(0.5, "attention_dropout")).train()
    values = torch.eye(6).expand(2, 3, 6, 6)  # what comes out are the weights
    found = site.attend(torch.zeros(2, 3, 4, 6), torch.randn(2, 3, 6, 6), values, bias=torch.zeros(4, 6))
    assert sorted({round(value, 5) for value in found.flatten().tolist()}) == [0.0, round(2 / 6, 5)]


def test_an_architecture_that_declares_no_such_site_has_none():
    assert make_attention(SHAPE).weights_dropout is None
    assert not any(isinstance(module, Dropout) for module in FeedForward(SHAPE).modules())


def test_hidden_units_are_dropped_between_the_two_maps():
    feed_forward = FeedForward(replace(SHAPE, feed_forward_dropout=Rate(0.5, "feed_forward_dropout"))).train()
    seen = []
    feed_forward.contract.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.randn(2, 50, 16)
    feed_forward(x)
    expected = torch.relu(feed_forward.expand(x))
    is_kept = seen[0] != 0
    torch.testing.assert_close(seen[0], torch.where(is_kept, 2 * expected, 0.0))
    assert 0.4 < float(is_kept.sum() / (expected > 0).sum()) < 0.6
