"""`transformer` with the settings of Llama, Qwen 3 and OLMo 2 says what `transformers` says with the same weights."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from hierlm import models
from hierlm.models.assembly import LanguageModel
from hierlm.models.decoding import Decoder

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'hierlm[test]'")
pytestmark = pytest.mark.slow

WITHIN = 1e-5
VOCAB, D, F, H, LAYERS = 97, 32, 48, 4, 3
OURS = {
    "arch": "transformer",
    "vocab_size": VOCAB,
    "hidden_dim": D,
    "ffn_dim": F,
    "num_heads": H,
    "num_layers": LAYERS,
    "norm": "rms",
    "feed_forward": "swiglu",
    "biases": False,
}
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Llama": ({"num_kv_heads": 2, "norm_epsilon": 1e-5, "rotary_base": 500_000.0}, {}),
    "Qwen3": (
        {"num_kv_heads": 1, "norm_epsilon": 1e-6, "rotary_base": 1e6, "qk_norm": "head", "tie_embeddings": True},
        {"head_dim": D // H, "tie_word_embeddings": True},
    ),
    "Olmo2": (
        {"num_kv_heads": 2, "norm_epsilon": 1e-6, "block_order": "reordered", "qk_norm": "vector"},
        {},
    ),
}
"""Of each: our fields, and what its own config says beside the sizes."""
THEIR_NAMES = {
    r"layers\.0\.tokens": "model.embed_tokens",
    r"layers\.\d+\.norm": "model.norm",
    r"layers\.\d+\.projection": "lm_head",
    r"(.*)attention\.query_norm": r"\1self_attn.q_norm",
    r"(.*)attention\.key_norm": r"\1self_attn.k_norm",
    r"(.*)attention\.query": r"\1self_attn.q_proj",
    r"(.*)attention\.key": r"\1self_attn.k_proj",
    r"(.*)attention\.value": r"\1self_attn.v_proj",
    r"(.*)attention\.output": r"\1self_attn.o_proj",
    r"(.*)feed_forward\.gate": r"\1mlp.gate_proj",
    r"(.*)feed_forward\.expand": r"\1mlp.up_proj",
    r"(.*)feed_forward\.contract": r"\1mlp.down_proj",
}
NORMS = {
    "pre": ("input_layernorm", "post_attention_layernorm"),
    "reordered": ("post_attention_layernorm", "post_feedforward_layernorm"),
}


def their_name(ours: str, *, order: str) -> str:
    holder, _, own = ours.rpartition(".")
    attention_norm, feed_forward_norm = NORMS[order]
    rules = {
        **THEIR_NAMES,
        r"(.*)attention_norm": rf"\1{attention_norm}",
        r"(.*)feed_forward_norm": rf"\1{feed_forward_norm}",
    }
    for pattern, name in rules.items():
        if match := re.fullmatch(pattern, holder):
            theirs = match.expand(name)
            return re.sub(r"^layers\.(\d+)", lambda m: f"model.layers.{int(m[1]) - 1}", theirs) + f".{own}"
    raise KeyError(ours)


def perturbed(part: dict[str, Any]) -> LanguageModel:
    """With gains and all far from where they begin."""
    model = models.from_config({"model": part}, seed=3).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def of_both(family: str) -> tuple[LanguageModel, Any]:
    import transformers

    fields, more = FAMILIES[family]
    ours = perturbed({**OURS, **fields})
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCAB,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=LAYERS,
        num_attention_heads=H,
        num_key_value_heads=fields["num_kv_heads"],
        rms_norm_eps=fields["norm_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": fields.get("rotary_base", 10_000.0)},
        attention_bias=False,
        attn_implementation="eager",
        **more,
    )
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    order = fields.get("block_order", "pre")
    weights = {their_name(name, order=order): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(weights, strict=True)
    return ours, theirs


def text(length: int = 24) -> Tensor:
    return torch.randint(VOCAB, (2, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_are_theirs(family: str) -> None:
    ours, theirs = of_both(family)
    found, expected = ours(text())[0], theirs(text()).logits
    assert expected.abs().max() > 1, "logits of nothing would be equal too"
    torch.testing.assert_close(found, expected, rtol=WITHIN, atol=WITHIN)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_generation_is_theirs(family: str) -> None:
    """A prompt, then token by token, each side from its own cache."""
    ours, theirs = of_both(family)
    decoder, cache = Decoder(ours), None
    for piece in text().split([7, *[1] * 5, 12], dim=1):
        found = decoder.extend(piece)
        answer = theirs(piece, cache=cache, use_cache=True)
        cache = answer.past_key_values
        torch.testing.assert_close(found, answer.logits, rtol=WITHIN, atol=WITHIN)


@torch.no_grad()
def test_an_interleaved_layout_is_another_order_of_the_same_rows() -> None:
    """Row j of a head's half-split projection is row 2j of the interleaved one, and row j + K/2 row 2j + 1."""
    part = {**OURS, **FAMILIES["Qwen3"][0]}
    half, pairs = perturbed(part), perturbed({**part, "rotary_layout": "interleaved"})
    head_dim = D // H
    order = torch.arange(head_dim).view(2, -1).t().flatten()
    weights = half.state_dict()
    for name, value in weights.items():
        if re.search(r"attention\.(query|key)\.weight", name):
            weights[name] = value.view(-1, head_dim, D)[:, order].reshape_as(value)
        elif re.search(r"attention\.(query|key)_norm\.weight", name):
            weights[name] = value[order]
    pairs.load_state_dict(weights)
    torch.testing.assert_close(pairs(text())[0], half(text())[0], rtol=WITHIN, atol=WITHIN)
