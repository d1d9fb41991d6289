"""What transformers saves computes the same here, read through the adapters; all of it on made-up weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hierlm import models
from hierlm.checkpoint.adapted_weights import adapted
from hierlm.checkpoint.safetensors_header import read_header
from hierlm.checkpoint.weights import SafetensorsWeights, as_matrix
from hierlm.interop import family_named
from hierlm.interop.family import model_part
from hierlm.models.assembly import LanguageModel
from hierlm.models.decoding import Decoder

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytestmark = pytest.mark.slow

WITHIN = 1e-5
SIZES = {"vocab_size": 97, "num_layers": 3, "width": 32, "heads": 4}


def saved(model: Any, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that it leaves, with weights far from where they begin."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    return folder, json.loads((folder / "config.json").read_text())


def loaded(folder: Path, config: dict[str, Any], **here: Any) -> LanguageModel:
    """A model here of what the config means, save for fields that are given, with the weights of the folder."""
    part = {**model_part(family_named(config["model_type"]), config, where="config.json"), **here}  # type: ignore[arg-type]
    model = models.from_config({"model": part}, seed=3).eval()
    plain = SafetensorsWeights(read_header(folder / "model.safetensors"))
    weights = adapted(plain, config, here=part, is_strict=False, source="x")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rows, columns = as_matrix(weights.shapes[name])
            parameter.copy_(weights.block(name, rows=range(rows), columns=range(columns)).reshape(parameter.shape))
    return model


def text(length: int = 24) -> Tensor:
    return torch.randint(SIZES["vocab_size"], (2, length), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def continued(model: LanguageModel, prompt: Tensor, *, by: int) -> Tensor:
    """The likeliest token, so many times, from a cache."""
    decoder, found, new = Decoder(model), prompt, prompt
    for _ in range(by):
        new = decoder.extend(new)[:, -1:].argmax(-1)
        found = torch.cat((found, new), dim=1)
    return found


@torch.no_grad()
def same(ours: LanguageModel, theirs: Any) -> None:
    found, expected = ours(text())[0], theirs.eval()(text()).logits
    assert expected.abs().max() > 1, "logits of nothing would be equal too"
    torch.testing.assert_close(found, expected, rtol=WITHIN, atol=WITHIN)


@pytest.mark.parametrize("tied", [False, True])
def test_llama(tied: bool, tmp_path: Path) -> None:
    config = transformers.LlamaConfig(
        vocab_size=SIZES["vocab_size"],
        hidden_size=SIZES["width"],
        intermediate_size=48,
        num_hidden_layers=SIZES["num_layers"],
        num_attention_heads=SIZES["heads"],
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    theirs = transformers.LlamaForCausalLM(config)
    ours = loaded(*saved(theirs, tmp_path))
    same(ours, theirs)
    expected = theirs.generate(text(8), max_new_tokens=64, do_sample=False, eos_token_id=None)
    assert torch.equal(continued(ours, text(8), by=64), expected)


def test_gpt2_but_for_its_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Learned positions are no option here: both sides go without any."""
    config = transformers.GPT2Config(
        vocab_size=SIZES["vocab_size"],
        n_embd=SIZES["width"],
        n_layer=SIZES["num_layers"],
        n_head=SIZES["heads"],
        n_inner=48,
        n_positions=32,
        attn_implementation="eager",
    )
    theirs = transformers.GPT2LMHeadModel(config)
    folder, written = saved(theirs, tmp_path)
    theirs.transformer.wpe.weight.data.zero_()
    monkeypatch.setattr("hierlm.nn.attention.multi_head.rotate", lambda heads, *_, **__: heads)
    same(loaded(folder, written, positions="rotary"), theirs)
