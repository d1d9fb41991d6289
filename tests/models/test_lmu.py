"""The LMU language model: sizes, the two variants, attention within a time step, chained rows."""

import pytest
import torch
from pydantic import ValidationError

from hierlm import models
from hierlm.models import lmu
from hierlm.models.assembly import LanguageModel
from hierlm.models.decoding import Decoder
from hierlm.models.lmu import Config
from hierlm.nn.recurrent import legendre
from hierlm.nn.recurrent.legendre_memory import LegendreMemory
from hierlm.nn.recurrent.lmu_block import ImplicitAttention
from hierlm.nn.stream import Stream
from tests.models.perturbed import perturbed

SMALL = {
    "arch": "lmu",
    "vocab_size": 50,
    "num_layers": 2,
    "hidden_dim": 16,
    "num_heads": 2,
    "ffn_dim": 24,
    "memory_order": 12,
    "reduced_order": 3,
    "window_length": 32,
}


def _model(**fields: object) -> LanguageModel:
    return perturbed(SMALL | fields).eval()


def _text(length: int) -> torch.Tensor:
    return torch.randint(50, (2, length), generator=torch.Generator().manual_seed(2))


def _implicit_attention(**fields: object) -> ImplicitAttention:
    torch.manual_seed(0)
    memory = LegendreMemory(order=12, window_length=32, chunk_length=None)
    sizes = {"memory": memory, "reduced_order": 3, "residual_scale": 1.0}
    module = ImplicitAttention(scale_scores=False, **sizes, **fields).double()
    torch.nn.init.normal_(module.reduce_bias)
    return module


def test_a_block_has_as_many_weights_as_the_paper_says():
    config = Config.model_validate(
        SMALL | {"hidden_dim": 16, "ffn_dim": 64, "memory_order": 20, "reduced_order": 2, "num_layers": 1}
    )
    two = config.model_copy(update={"num_layers": 2})
    assert lmu.num_parameters(two) - lmu.num_parameters(config) == 4480


@torch.no_grad()
@pytest.mark.parametrize("global_attention", [False, True])
def test_at_first_every_sublayer_adds_less_than_the_tokens_are(global_attention):
    """Else they drown before they have been learned."""
    part = SMALL | {"hidden_dim": 64, "ffn_dim": 128, "memory_order": 60, "reduced_order": 6, "window_length": 256}
    model = models.from_config({"model": part | {"global_attention": global_attention}}, seed=1)
    x = model.layers[0](Stream((_text(256),)))[0].hidden
    block, tokens = model.layers[1], x.std()
    after_first, _ = block._first(x, None)
    remembered, _ = block.memory(block.memory_norm(after_first))
    assert (after_first - x).std() < tokens
    assert 0 < remembered.std() < tokens
    assert block.feed_forward(block.feed_forward_norm(x)).std() < tokens


def test_implicit_attention_is_the_formula():
    """y_t = p softmax(Q K^T) V with Q, K, V = gelu(L M_t + b)."""
    module, x = _implicit_attention(), torch.randn(1, 10, 4, dtype=torch.float64)
    response = torch.from_numpy(legendre.impulse_response(order=12, window_length=32, length=10))
    out, _ = module(x)
    for t in range(10):
        state = sum(response[:, t - j, None] * x[0, j] for j in range(t + 1))
        projected = torch.nn.functional.gelu(module.reduce @ state + module.reduce_bias[:, None])
        q, k, v = projected.chunk(3)
        torch.testing.assert_close(out[0, t], module.pool @ ((q @ k.T).softmax(-1) @ v), rtol=0, atol=1e-12)


def test_implicit_attention_stays_within_a_time_step():
    module, reads = _implicit_attention(), torch.randn(3, 2, 7, 3, 4, dtype=torch.float64)
    alone = torch.zeros_like(reads)
    alone[:, :, 4] = reads[:, :, 4]
    assert torch.equal(module.attend(*alone)[:, 4], module.attend(*reads)[:, 4])


def test_the_memory_is_not_trained():
    model = models.from_config({"model": SMALL}).train()
    before = {key: value.copy() for key, value in enumerate(legendre.discrete_system(order=12, window_length=32))}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        model(_text(20))[0].square().mean().backward()
        optimizer.step()
    after = legendre.discrete_system(order=12, window_length=32)
    assert all((before[key] == value).all() for key, value in enumerate(after))
    assert lmu.num_parameters(model.config) == sum(p.numel() for p in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("cut", [[1] * 10, [3, 7], [90]])
@pytest.mark.parametrize("chunk_length", [None, 16])
def test_rows_chained_by_their_memory_are_one_long_row(cut, chunk_length):
    model = _model(carry_memory=True, chunk_length=chunk_length)
    text = _text(sum(cut))
    state, parts = None, []
    for piece in text.split(cut, dim=1):
        logits, state = model(piece, state)
        parts.append(logits)
    independent = _model()(text)[0]
    torch.testing.assert_close(torch.cat(parts, dim=1), independent, rtol=0, atol=1e-11)


@torch.no_grad()
def test_independent_rows_have_no_state():
    logits, state = _model()(_text(8))
    assert state is None and torch.isfinite(logits).all()


@torch.no_grad()
@pytest.mark.parametrize("global_attention", [False, True])
@pytest.mark.parametrize("cut", [[1] * 12, [70, 1, 1], [5, 80]])
def test_decoding_equals_the_parallel_form(global_attention, cut):
    model, text = _model(global_attention=global_attention), _text(sum(cut))
    decoder = Decoder(model)
    parts = [decoder.extend(piece) for piece in text.split(cut, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model(text)[0], rtol=0, atol=1e-10)


@torch.no_grad()
def test_global_attention_is_causal_and_counted():
    model, text = _model(global_attention=True), _text(12)
    assert sum(p.numel() for p in model.parameters()) == lmu.num_parameters(model.config)
    changed = text.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 50
    assert torch.equal(model(changed)[0][:, :7], model(text)[0][:, :7])


@torch.no_grad()
def test_state_and_filters_stay_in_float32_under_bfloat16():
    model = models.from_config({"model": SMALL | {"carry_memory": True}}).to(torch.bfloat16).eval()
    logits, state = model(_text(100))
    assert logits.dtype == torch.bfloat16 and state[1][0].dtype == torch.float32
    exact = models.from_config({"model": SMALL | {"carry_memory": True}}).eval()(_text(100))[0]
    assert (logits.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_attention_over_other_rows_is_refused():
    with pytest.raises(ValidationError, match="carry_memory: false"):
        Config.model_validate(SMALL | {"global_attention": True, "carry_memory": True})
