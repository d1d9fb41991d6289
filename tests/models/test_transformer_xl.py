"""Transformer-XL: recurrence, reach, gradient, evaluation memory, published sizes."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from hierlm import models
from hierlm.config.load import load_config
from hierlm.models import transformer_xl
from hierlm.models.assembly import LanguageModel
from hierlm.models.transformer_xl import Config
from hierlm.nn.attention.relative_attention import Sight, consecutive_sight
from hierlm.nn.layer import StepContext
from hierlm.nn.memory.slots import SegmentMemory
from hierlm.nn.stream import Stream
from tests.models.perturbed import perturbed

PAPERS = Path(__file__).parents[2] / "configs" / "papers"
SMALL = {"arch": "transformer_xl", "vocab_size": 50, "num_layers": 3, "hidden_dim": 16, "num_heads": 2, "ffn_dim": 24}
WIKITEXT = {"arch": "transformer_xl", "vocab_size": 267_735, "cutoffs": [20_000, 40_000, 200_000]}


def _model(**fields: object) -> LanguageModel:
    return perturbed(SMALL | fields).eval()


def _text(length: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(50, (batch, length), generator=torch.Generator().manual_seed(2))


def _by_segments(model: LanguageModel, text: torch.Tensor, segment: int) -> torch.Tensor:
    state, parts = None, []
    for piece in text.split(segment, dim=1):
        logits, state = model(piece, state)
        parts.append(logits)
    return torch.cat(parts, dim=1)


def _in_one_pass(model: LanguageModel, text: torch.Tensor, *, segment: int, memory: int) -> torch.Tensor:
    """Every layer over the whole text, with the mask (j <= i) & (j >= floor(i / T) * T - M)."""
    length = text.shape[1]
    i, j = torch.arange(length)[:, None], torch.arange(length)
    visible = (j <= i) & (j >= i // segment * segment - memory)
    causal = consecutive_sight(torch.ones(1, 0, dtype=torch.bool), length)
    stream, _ = model.layers[0](Stream((text,)))
    x = stream.hidden
    for layer in list(model.layers)[1:-1]:
        x = layer.block(x, x[:, :0], Sight(causal.distances, None, visible[None, None]))
    return model.layers[-1](Stream((x,)))[0].hidden


@torch.no_grad()
@pytest.mark.parametrize(("segment", "memory"), [(12, 12), (8, 8), (6, 24), (6, 3), (4, 10)])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_recurrence_over_segments_is_one_masked_pass(segment, memory, pre_norm):
    model, text = _model(memory_length=memory, pre_norm=pre_norm), _text(24)
    if pre_norm:
        model.layers[-2].block = lambda x, past, sight, norm=model.layers[-2].norm: norm(x)
    expected = _in_one_pass(model, text, segment=segment, memory=memory)
    torch.testing.assert_close(_by_segments(model, text, segment), expected, rtol=0, atol=1e-12)
    wrong = _in_one_pass(model, text, segment=segment, memory=memory // 2)
    assert (_by_segments(model, text, segment) - wrong).abs().max() > 1e-3


@torch.no_grad()
def test_a_token_reaches_as_many_segments_as_there_are_layers():
    model, text = _model(memory_length=4), _text(24, batch=1)
    changed = text.clone()
    changed[0, 0] += 1
    difference = (_by_segments(model, text, 4) - _by_segments(model, changed, 4)).abs().amax(dim=-1)[0]
    assert difference.nonzero().max() == 15  # 3 layers, T = M = 4


@torch.no_grad()
def test_without_memory_segments_are_independent():
    model, text = _model(memory_length=0), _text(12)
    by_segments = _by_segments(model, text, 4)
    for start in (0, 4, 8):
        alone, _ = model(text[:, start : start + 4])
        assert torch.equal(alone, by_segments[:, start : start + 4])


def test_no_gradient_flows_into_the_memory():
    model, text = _model(memory_length=6), _text(8)
    embedded: list[torch.Tensor] = []
    model.layers[0].register_forward_hook(lambda m, i, out: embedded.append(out[0].hidden))
    memories = model.initial_state(text)
    outputs = []
    for piece in text.split(4, dim=1):
        stream = Stream((piece,))
        updated = []
        for layer, memory in zip(model.layers, memories, strict=True):
            stream, new = layer(stream, memory)
            updated.append(new)
        memories = tuple(updated)
        outputs.append(stream.hidden)
    first, second = torch.autograd.grad(outputs[1].sum(), embedded, allow_unused=True)
    assert first is None and second.abs().sum() > 0


@torch.no_grad()
def test_memory_of_a_row_is_what_its_layers_received_before():
    model, text = _model(memory_length=4), _text(8)
    _, state = model(text[:, :4])
    embedded, _ = model.layers[0](Stream((text[:, :4],)))
    assert torch.equal(SegmentMemory(*state[1]).hidden, embedded.hidden)
    _, swapped = model(text[[1, 0], :4])
    assert torch.equal(state[2][0], swapped[2][0][[1, 0]])


@torch.no_grad()
def test_calls_leave_the_state_they_were_given():
    model, text = _model(memory_length=4), _text(12)
    _, state = model(text[:, :4])
    before = [[part.clone() for part in memory] for memory in state if memory is not None]
    model(text[:, 4:8], state)
    after = [memory for memory in state if memory is not None]
    assert all(torch.equal(a, b) for old, new in zip(before, after, strict=True) for a, b in zip(old, new, strict=True))


@torch.no_grad()
def test_evaluation_may_remember_more_than_training():
    model, text = _model(memory_length=4, evaluation_memory_length=12), _text(24)
    expected = _in_one_pass(model, text, segment=4, memory=12)
    torch.testing.assert_close(_by_segments(model, text, 4), expected, rtol=0, atol=1e-12)
    model.train()
    expected = _in_one_pass(model, text, segment=4, memory=4)
    torch.testing.assert_close(_by_segments(model, text, 4), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_phase_may_change_the_memory_length():
    model, text = _model(memory_length=4).train(), _text(24)
    _, state = model(text[:, :8])
    longer = StepContext(step=1, seed=0, switches={"memory_length": 8})
    for layer in model.layers:
        layer.begin_step(longer)
    continued, state = model(text[:, 8:16], state)
    assert state[1][0].shape[1] == 8
    for layer in model.layers:
        layer.begin_step(longer._replace(switches={"memory_length": 4}))
    expected, _ = model(text[:, 8:16], model(text[:, :8])[1])
    torch.testing.assert_close(continued, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_same_length_evaluation_shows_memory_length_keys():
    model, text = _model(memory_length=6, evaluation_same_length=True, num_layers=1), _text(18)
    window = _in_one_pass(model, text, segment=1, memory=5)
    torch.testing.assert_close(_by_segments(model, text, 6), window, rtol=0, atol=1e-12)


@torch.no_grad()
def test_clamping_changes_far_keys_only():
    plain, text = _model(memory_length=12), _text(12)
    clamped = _model(memory_length=12, evaluation_clamp_distance=3)
    a, b = plain(text)[0], clamped(text)[0]
    assert torch.equal(a[:, :4], b[:, :4]) and (a - b)[:, 4:].abs().max() > 1e-4


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"vocab_size": 204, "num_layers": 12, "hidden_dim": 512, "num_heads": 8, "ffn_dim": 2048}, 41_055_436),
        ({"vocab_size": 204, "num_layers": 24, "hidden_dim": 1024, "num_heads": 8, "ffn_dim": 3072}, 277_231_820),
        ({"vocab_size": 27, "num_layers": 12, "hidden_dim": 512, "num_heads": 8, "ffn_dim": 2048}, 40_964_635),
        (WIKITEXT | {"num_layers": 16, "hidden_dim": 410, "num_heads": 10, "ffn_dim": 2100}, 151_107_538),
        (
            WIKITEXT | {"num_layers": 18, "hidden_dim": 1024, "num_heads": 16, "ffn_dim": 4096, "div_value": 4},
            285_170_506,
        ),
        ({"vocab_size": 100, "num_layers": 2, "hidden_dim": 32, "num_heads": 4, "ffn_dim": 64}, 22_244),
    ],
)
def test_published_parameter_counts(fields, expected):
    config = Config.model_validate({"arch": "transformer_xl", "memory_length": 1} | fields)
    assert transformer_xl.num_parameters(config) == expected
    with torch.device("meta"):
        model = LanguageModel(config, seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize(
    ("paper", "expected"),
    [
        ("transformer_xl/enwik8-12l", 41_055_436),
        ("transformer_xl/enwik8-24l", 277_231_820),
        ("transformer_xl/wikitext103-base", 151_107_538),
        ("skip_cross_head_xl/wikitext103", 122_215_992),
        ("skip_cross_head_xl/enwik8", 41_159_884),
        ("recurrent_memory_transformer/wikitext103-m10", 151_107_538 + 410 * 10),
        ("recurrent_memory_transformer/enwik8-m5", 41_055_436 + 512 * 5),
    ],
)
def test_published_settings_have_the_published_size(paper, expected):
    config = load_config(PAPERS / f"{paper}.yaml").model
    assert models.architecture(config.arch).num_parameters(config) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 3}, "num_heads 3"),
        ({"cutoffs": [30, 20]}, "must rise"),
        ({"cutoffs": [60]}, "vocab_size 50"),
        ({"cutoffs": [10, 20], "div_value": 8}, "no width"),
    ],
)
def test_impossible_sizes_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(SMALL | {"memory_length": 1} | fields)


def test_what_cannot_be_cut_by_heads_says_so():
    plain = Config.model_validate(SMALL | {"memory_length": 1})
    assert transformer_xl.refusals(plain) == {}
    reason = transformer_xl.refusals(plain.model_copy(update={"cutoffs": [10]}))["tensor_parallel_degree"]
    assert "adaptive softmax" in reason
