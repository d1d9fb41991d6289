"""Sandwich order and head windows change the order and the sight of the plain transformer, nothing else."""

import pytest
import torch
from pydantic import ValidationError

from hierlm import models
from hierlm.models.transformer import Config, heads_per_window
from tests.models.zoo import tokens

SIZES = {"arch": "transformer", "num_layers": 4, "hidden_dim": 16, "num_heads": 4, "ffn_dim": 32}


def build(**fields):
    return models.from_config({"model": {**SIZES, **fields}}, seed=3).double().eval()


def order(model):
    return "".join(("s" if b.attends else "") + ("f" if b.feeds_forward else "") for b in model.layers[1:-2])


@pytest.mark.parametrize(("k", "expected"), [(0, "sfsfsfsf"), (1, "ssfsfsff"), (3, "ssssffff"), (4, "ssssffff")])
def test_a_sandwich_is_s_k_sf_n_minus_k_f_k(k, expected):
    model = build(sandwich=k)
    assert order(model) == expected
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in build().parameters())


def test_windows_that_hold_everything_are_plain_attention():
    plain, windowed = build(num_layers=1), build(num_layers=1, attention_windows=[16, 0], window_slope=0)
    attention, parts = plain.layers[1].attention, windowed.layers[1].attention.scales
    with torch.no_grad():
        for name in ("query", "key", "value"):
            whole = getattr(attention, name)
            for index, rows in enumerate((slice(0, 8), slice(8, 16))):
                getattr(parts[index], name).weight.copy_(whole.weight[rows])
                getattr(parts[index], name).bias.copy_(whole.bias[rows])
                parts[index].output.weight.copy_(attention.output.weight[:, rows])
        parts[0].output.bias.copy_(attention.output.bias)
        shared = {k: v for k, v in plain.state_dict().items() if ".attention." not in k}
        windowed.load_state_dict(shared, strict=False)
        torch.testing.assert_close(windowed(tokens(16))[0], plain(tokens(16))[0], rtol=1e-12, atol=1e-12)


def test_sight_after_n_layers_is_the_sum_of_the_largest_windows():
    model = build(num_layers=3, attention_windows=[2, 4], window_slope=0)
    text = tokens(16, batch=1)
    reach = 3 * (4 - 1)
    with torch.no_grad():
        before = model(text)[0][0, -1]
        for position in range(16):
            changed = text.clone()
            changed[0, position] = (changed[0, position] + 9) % 256
            is_seen = not torch.equal(model(changed)[0][0, -1], before)
            assert is_seen == (position >= 15 - reach), position


def test_low_layers_prefer_small_windows_and_the_top_shares_equally():
    shares = [heads_per_window(num_heads=12, num_windows=4, height=h, slope=1.0) for h in (0.0, 0.5, 1.0)]
    assert all(sum(share) == 12 for share in shares)
    assert shares[0][0] > shares[1][0] > shares[2][0]
    assert shares[2] == [3, 3, 3, 3]


def test_the_number_of_weights_does_not_depend_on_windows():
    assert Config(**SIZES, attention_windows=(3, 0)).attention_windows == (3, 0)
    windowed = build(attention_windows=[1, 3, 0])
    assert sum(p.numel() for p in windowed.parameters()) == sum(p.numel() for p in build().parameters())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sandwich": 5}, "at most num_layers"),
        ({"attention_windows": (4,), "positions": "relative"}, "rotary or sinusoidal"),
        ({"num_heads": 3}, "even number"),
    ],
)
def test_options_that_do_not_fit_are_refused(fields, reason):
    with pytest.raises(ValidationError, match=reason):
        Config(**{**SIZES, **fields})
