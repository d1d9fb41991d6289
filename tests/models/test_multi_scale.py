"""Top-down, bottom-up and retina: reductions, tightness, and the retina's tiling of the past."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hierlm import models
from hierlm.nn.attention import retina
from hierlm.nn.attention.retina import RetinaView
from hierlm.nn.resampling import aggregation
from hierlm.nn.resampling.aggregation import EndedBy
from hierlm.nn.resampling.downsampling import CausalExpansion, Condition
from hierlm.nn.stream import Stream
from tests.models.zoo import built, tokens

SIZES = {"hidden_dim": 16, "num_heads": 2, "ffn_dim": 32}


def build(arch, **fields):
    return models.from_config({"model": {"arch": arch, **SIZES, **fields}}, seed=3).double().eval()


def is_causal(model, *, length=14):
    text = tokens(length)
    with torch.no_grad():
        before = model(text)[0]
        for position in range(1, length):
            changed = torch.cat((text[:, :position], tokens(length - position, seed=position)), dim=1)
            if not torch.equal(model(changed)[0][:, :position], before[:, :position]):
                return False
    return True


@pytest.mark.parametrize(
    ("arch", "fields"),
    [
        ("top_down", {"scales": [1], "layers_per_scale": [3]}),
        ("bottom_up", {"scales": [1], "layers_per_scale": [2], "post_layers": 1}),
        ("retina", {"scales": [1], "windows": [], "num_layers": 3}),
    ],
)
def test_one_scale_is_the_plain_transformer(arch, fields):
    plain = build("transformer", num_layers=3)
    model = build(arch, **fields)
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model(tokens(11))[0], plain(tokens(11))[0], rtol=1e-12, atol=1e-12)


def test_a_retina_whose_sharp_window_holds_everything_is_the_plain_transformer():
    plain = build("transformer", num_layers=2)
    model = build("retina", scales=[1, 4, 16], windows=[40, 4], num_layers=2)
    model.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(model(tokens(40))[0], plain(tokens(40))[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("hidden_dim", [96, 1024])
def test_a_finer_level_begins_as_if_it_were_alone(hidden_dim):
    """With all of the merge drawn at random a model of 30 layers did not learn for 500 steps."""
    torch.manual_seed(0)
    condition = Condition(hidden_dim=hidden_dim, factor=4, is_linear=False, residual_scale=60**-0.5)
    fine, coarse = torch.randn(2, 32, hidden_dim), torch.randn(2, 8, hidden_dim)
    with torch.no_grad():
        merged = condition(Stream((fine, coarse)))[0].hidden
    assert 0 < (merged - fine).std() < 0.1 * fine.std()


def test_reading_a_unit_one_position_early_sees_the_future_top_down(monkeypatch):
    assert is_causal(built("top_down"))
    original = CausalExpansion.forward

    def early(self, units, *, num_fine, unread):
        read, left = original(self, units, num_fine=num_fine + 1, unread=unread)
        return read[:, -num_fine:], left

    monkeypatch.setattr(CausalExpansion, "forward", early)
    assert not is_causal(built("top_down"), length=12)


def test_seeing_a_unit_one_token_early_sees_the_future_bottom_up(monkeypatch):
    assert is_causal(built("bottom_up"))
    monkeypatch.setattr(aggregation, "EndedBy", lambda last_tokens, now: EndedBy((last_tokens - 1).clamp(min=-1), now))
    assert not is_causal(built("bottom_up"))


def test_ranges_that_end_one_unit_late_see_the_future_retina(monkeypatch):
    assert is_causal(built("retina"))
    original = retina.RetinaView.ranges_of

    def late(self, at):
        return original(self, at + 1)

    monkeypatch.setattr(retina.RetinaView, "ranges_of", late)
    monkeypatch.setattr(retina.RetinaView, "ranges", lambda self, token: RANGES(self, token + 1))
    assert not is_causal(built("retina"))


RANGES = retina.RetinaView.ranges


@pytest.mark.parametrize("view", [RetinaView((1, 4, 16), (8, 4)), RetinaView((1, 2, 6), (1, 1)), RetinaView((1,), ())])
def test_the_ranges_tile_the_past_exactly_once_in_whole_units(view):
    for token in range(80):
        ranges = view.ranges(token)
        assert ranges[0][1] == token + 1
        assert ranges[-1][0] == 0
        for (low, high), (_, next_high), scale in zip(ranges, ranges[1:], view.scales[1:], strict=False):
            assert next_high == low <= high
            assert low % scale == 0
        assert ranges == [(int(a), int(b)) for a, b in view.ranges_of(torch.tensor(token))]


def test_a_query_sees_few_keys():
    """64 tokens, scales 1, 4, 16, windows 8 and 4: at most 19 keys instead of 64."""
    view = RetinaView((1, 4, 16), (8, 4))
    counts = [
        sum((high - low) // scale for (low, high), scale in zip(view.ranges(token), view.scales, strict=True))
        for token in range(64)
    ]
    assert max(counts) == 19


def test_the_retinas_attention_grows_slower_than_the_square_of_the_length():
    model = build("retina", scales=[1, 4, 16], windows=[8, 4], num_layers=1)
    plain = build("transformer", num_layers=1)

    def growth(of):
        flops = []
        for length in (256, 512):
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
                of(tokens(length, batch=1))
            counts = counter.get_flop_counts()["Global"]
            flops.append(sum(n for op, n in counts.items() if "bmm" in str(op)))
        return flops[1] / flops[0]

    assert growth(plain) == 4
    assert growth(model) < 3.2  # what a single query sees grows like 2 * (8 + 4 + 32) / (8 + 4 + 16) = 3.14 already


def test_bottom_up_with_a_silent_aggregation_is_the_layers_on_tokens():
    model = build("bottom_up", scales=[1, 3], layers_per_scale=[2, 2], post_layers=1)
    aggregate = next(layer for layer in model.layers if isinstance(layer, aggregation.Aggregate))
    plain = build("transformer", num_layers=3)
    with torch.no_grad():
        for silent in (aggregate.attention.output, aggregate.feed_forward.contract):
            silent.weight.zero_()
            silent.bias.zero_()
        fine = [model.layers[index] for index in (0, 1, 2, 7, 8, 9)]
        for ours, theirs in zip(fine, plain.layers, strict=True):
            theirs.load_state_dict(ours.state_dict())
        assert torch.equal(model(tokens(10))[0], plain(tokens(10))[0])
