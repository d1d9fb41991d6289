"""Orders of norm and sublayer, and first weights by scheme and depth, are what their names say."""

import pytest
import torch
from torch import nn

from hierlm import models
from hierlm.nn.basic.residual import entering, leaving
from hierlm.nn.config import Order

PART = {"arch": "transformer", "hidden_dim": 64, "num_heads": 4, "ffn_dim": 128, "num_layers": 3}


@pytest.mark.parametrize("order", ["pre", "post", "reordered"])
def test_the_norm_stands_where_the_order_says(order: Order) -> None:
    x, norm = torch.randn(2, 3, 8), nn.LayerNorm(8)
    formulas = {"pre": x + norm(x).exp(), "post": norm(x + x.exp()), "reordered": x + norm(x.exp())}
    found = leaving(x, entering(x, norm, order).exp(), norm, order)
    torch.testing.assert_close(found, formulas[order])


def spread(depth_scaling: str, initialisation: str = "normal") -> list[float]:
    """Standard deviations of what writes into the stream, block by block."""
    part = {**PART, "depth_scaling": depth_scaling, "initialisation": initialisation}
    blocks = models.from_config({"model": part}, seed=1).layers[1:-2]
    return [float(block.feed_forward.contract.weight.detach().std()) for block in blocks]


@pytest.mark.parametrize(
    ("depth_scaling", "expected"),
    [
        ("total", [0.02 / 6**0.5] * 3),
        ("layer", [0.02 / (2 * (layer + 1)) ** 0.5 for layer in range(3)]),
        ("none", [0.02] * 3),
        ("zero", [0.0] * 3),
    ],
)
def test_first_weights_that_write_shrink_by_depth(depth_scaling: str, expected: list[float]) -> None:
    torch.testing.assert_close(torch.tensor(spread(depth_scaling)), torch.tensor(expected), rtol=0.05, atol=0)


def test_fan_in_follows_the_width_and_is_cut() -> None:
    torch.testing.assert_close(torch.tensor(spread("none", "fan_in")), torch.full((3,), 128**-0.5), rtol=0.05, atol=0)
    model = models.from_config({"model": {**PART, "initialisation": "fan_in"}}, seed=1)
    query = model.layers[1].attention.query.weight
    assert float(query.detach().abs().max()) <= 3 * 64**-0.5
    assert float(model.layers[0].tokens.weight.detach().std()) == pytest.approx(1.0, rel=0.05)


def test_a_cap_holds_every_logit() -> None:
    tokens = torch.arange(20)[None]
    free = models.from_config({"model": {**PART, "initialisation": "llama"}}, seed=1)
    capped = models.from_config({"model": {**PART, "initialisation": "llama", "logit_soft_cap": 0.5}}, seed=1)
    logits = free(tokens)[0]
    torch.testing.assert_close(capped(tokens)[0], 0.5 * torch.tanh(logits / 0.5))
