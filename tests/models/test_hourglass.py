"""Hourglass: notation, the shift it needs and no more, drawn shorten factors, and what it reduces to."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from hierlm import models
from hierlm.models.assembly import LanguageModel
from hierlm.models.decoding import Decoder
from hierlm.models.hourglass import Config, parse_hierarchy
from hierlm.nn.layer import StepContext, fold
from hierlm.nn.resampling.shortening import Shorten
from hierlm.nn.stream import Stream
from tests.models.zoo import tokens

SIZES = {"hidden_dim": 16, "num_heads": 2, "ffn_dim": 32}


def build(hierarchy: str, **fields: object) -> LanguageModel:
    part = {"arch": "hourglass", "hierarchy": hierarchy, **SIZES, **fields}
    return models.from_config({"model": part}, seed=3).double().eval()


def logits_after_changing(model: torch.nn.Module, text: torch.Tensor, position: int) -> torch.Tensor:
    changed = text.clone()
    changed[:, position:] = (changed[:, position:] + 77) % 256
    return model(changed)[0]


def is_causal(model: torch.nn.Module, *, length: int = 12) -> bool:
    text = tokens(length)
    with torch.no_grad():
        before = model(text)[0]
        return all(
            torch.equal(logits_after_changing(model, text, at)[:, :at], before[:, :at]) for at in range(1, length)
        )


def test_the_notation_of_the_paper():
    levels = parse_hierarchy("2@1 3@2 2@6 5@24 2@6 3@2 2@1")
    assert [level.shorten_factor for level in levels] == [1, 2, 3, 4]
    assert [(level.pre_layers, level.post_layers) for level in levels] == [(2, 2), (3, 3), (2, 2), (5, 0)]


def test_layers_on_tokens_may_differ_before_and_after():
    assert [(level.pre_layers, level.post_layers) for level in parse_hierarchy("0@1 8@3 2@1")] == [(0, 2), (8, 0)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2@1 8@3", "palindrome"),
        ("2@1 8@3 2@2", "palindrome"),
        ("1@1 1@2 1@4 2@2 1@1", "as many layers"),
        ("2@1 4@3 8@4 4@3 2@1", "multiple"),
        ("2@1 4@1 2@1", "multiple"),
        ("8@3", "start and end"),
        ("8x3", "N@factor"),
        ("", "N@factor"),
    ],
)
def test_a_broken_hierarchy_is_refused_with_the_rule_it_breaks(text, reason):
    with pytest.raises(ValueError, match=reason):
        parse_hierarchy(text)


@pytest.mark.parametrize(("hierarchy", "num_valleys"), [("1@1 1@3 1@1", 1), ("1@1 1@2 1@6 1@2 1@1", 2)])
@pytest.mark.parametrize("shortening", ["average", "linear", "attention"])
def test_every_shift_is_needed(hierarchy, num_valleys, shortening):
    """The negative control: one zero less in front of any valley and the model sees the future."""

    class Leaky(Shorten):
        shift = property(lambda self: self.factor - 2)

    assert is_causal(build(hierarchy, shortening=shortening))
    for valley in range(num_valleys):
        model = build(hierarchy, shortening=shortening)
        shortenings = [layer for layer in model.layers if isinstance(layer, Shorten)]
        shortenings[valley].__class__ = Leaky
        assert not is_causal(model)


@pytest.mark.parametrize("shortening", ["average", "linear", "attention"])
@pytest.mark.parametrize("upsampling", ["repeat", "linear", "attention"])
@pytest.mark.parametrize("positions", ["rotary", "relative"])
def test_every_pair_of_shortening_and_upsampling_is_causal(shortening, upsampling, positions):
    model = build("1@1 1@2 1@4 1@2 1@1", shortening=shortening, upsampling=upsampling, positions=positions)
    assert is_causal(model, length=9)


def test_without_a_valley_it_is_the_plain_transformer():
    plain_part = {"arch": "transformer", "num_layers": 3, **SIZES}
    plain = models.from_config({"model": plain_part}, seed=9).double().eval()
    flat = build("3@1")
    flat.load_state_dict(plain.state_dict())
    assert torch.equal(flat(tokens(11))[0], plain(tokens(11))[0])


def test_with_a_silent_valley_only_the_layers_on_tokens_speak():
    model = build("2@1 2@3 1@1")
    valley = next(index for index, layer in enumerate(model.layers) if isinstance(layer, Shorten))
    end = next(index for index, layer in enumerate(model.layers) if type(layer).__name__ == "Upsample")
    with torch.no_grad():
        model.layers[end].norm.weight.zero_()
        model.layers[end].norm.bias.zero_()
        rest = [*model.layers[:valley], *model.layers[end + 1 :]]
        plain, _ = fold(rest, Stream((tokens(11),)), [None] * len(rest))
        assert torch.equal(model(tokens(11))[0], plain.hidden)


def test_drawn_factors_are_keyed_by_the_step_and_equal_in_every_layer():
    model = build("1@1 2@3 1@1", shortening="average", upsampling="repeat", shorten_factors=[2, 3]).train()
    drawn = []
    for step in range(20):
        for layer in model.layers:
            layer.begin_step(StepContext(step, 5, {"shorten_factors": (2, 3)}))
        shorten, *coarse, upsample = model.layers[3:8]
        assert type(upsample).__name__ == "Upsample"
        factors = {shorten.factor, upsample.factor, *(b.stride.now(training=True) for b in coarse[:2])}
        assert len(factors) == 1
        drawn.append(factors.pop())
    assert set(drawn) == {2, 3}
    model.layers[3].begin_step(StepContext(4, 5, {"shorten_factors": (2, 3)}))
    assert model.layers[3].factor == drawn[4]
    model.eval()
    assert model.layers[3].factor == 3


def test_drawn_factors_change_the_training_pass_and_not_the_evaluation():
    model = build("1@1 2@3 1@1", shorten_factors=[2])
    before = model(tokens(12))[0]
    for layer in model.layers:
        layer.begin_step(StepContext(0, 5, {"shorten_factors": (2,)}))
    assert torch.equal(model(tokens(12))[0], before)
    assert not torch.allclose(model.train()(tokens(12))[0], before)


def test_the_causality_of_every_drawn_factor():
    for factor in (2, 3, 4):
        model = build("1@1 2@3 1@1").train()
        for layer in model.layers:
            layer.begin_step(StepContext(0, 5, {"shorten_factors": (factor,)}))
        assert is_causal(model, length=13)


def test_drawn_factors_are_refused_where_weights_belong_to_one_factor():
    config = partial(Config, arch="hourglass", hierarchy="1@1 1@3 1@1", shorten_factors=(2, 3), **SIZES)
    with pytest.raises(ValidationError, match="one valley"):
        config(shortening="linear")
    with pytest.raises(ValidationError, match="one valley"):
        config(upsampling_query="linear")


def flops_of_each_token(model: LanguageModel, num_tokens: int) -> list[int]:
    decoder, costs = Decoder(model), []
    for token in tokens(num_tokens, batch=1).split(1, dim=1):
        with FlopCounterMode(display=False) as counter:
            decoder.extend(token)
        costs.append(counter.get_flop_counts()["Global"][torch.ops.aten.addmm])  # projections: no growth with the text
    return costs


def test_in_generation_a_level_advances_only_when_a_group_of_it_completes():
    costs = flops_of_each_token(build("1@1 1@2 2@6 1@2 1@1", shortening="average", upsampling="repeat"), 18)
    only_tokens, with_pairs, with_all = sorted(set(costs))
    assert costs == [
        with_all if position % 6 == 0 else with_pairs if position % 2 == 0 else only_tokens for position in range(18)
    ]
    block = 2 * (4 * 16 * 16 + 2 * 16 * 32)
    assert (with_pairs - only_tokens, with_all - with_pairs) == (2 * block, 2 * block)
