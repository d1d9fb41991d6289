"""A run's checkpoint under a family's names comes back byte for byte; what the family cannot be is refused by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hierlm.checkpoint.canonical import read_canonical
from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.family_export import export_as
from hierlm.config.load import dump_config, load_config
from hierlm.errors import UserError
from hierlm.parallel.engine import TAG
from tests.checkpoint.layouts import small_engine
from tests.checkpoint.matrix import save
from tests.distributed.spawn import run_ranks

PATH = "configs/tiny/transformer.yaml"
LLAMA = [
    *("model.norm=rms", "model.feed_forward=swiglu", "model.biases=false", "model.num_kv_heads=1"),
    *("model.hidden_dim=16", "model.num_heads=2", "model.ffn_dim=24", "model.vocab_size=51"),
]


def save_first(words: list[str], folder: str) -> None:
    save(small_engine("transformer", words), Path(folder))


def begin_and_save(words: list[str], folder: str) -> None:
    """As a run that begins with an export does."""
    from hierlm.checkpoint.weight_source import find_source
    from hierlm.train.first_weights import _assigned, _opened

    engine = small_engine("transformer", words)
    source = find_source(engine.config.init_from, run_root=Path("runs"))
    weights = _opened(engine.config, source, None, say=lambda line: None)
    engine.read_first_weights(weights, _assigned(engine.config, source, weights).taken)
    engine.follow_first_weights()
    save(engine, Path(folder))


@pytest.mark.slow
@pytest.mark.distributed
def test_an_export_as_llama_begins_the_same_model_at_another_layout(tmp_path: Path) -> None:
    run_ranks(save_first, 1, [*LLAMA, "seed=5"], str(tmp_path / "one"))
    (tmp_path / "config.yaml").write_text(dump_config(load_config(PATH, LLAMA)))
    engine = tmp_path / "one" / TAG
    counts = export_as("llama", engine, run_config=tmp_path / "config.yaml", output=tmp_path / "llama")
    tensors, state = load_file(tmp_path / "llama" / "model.safetensors"), read_canonical(engine)
    assert sum(tensor.numel() for tensor in tensors.values()) == counts["parameters"]
    assert torch.equal(
        tensors["model.layers.1.mlp.up_proj.weight"], state.tensor("layers.2.feed_forward.expand.weight", "fp32")
    )
    words = [*LLAMA, "seed=6", f"init_from.path={tmp_path / 'llama'}", "parallel.tensor_parallel_degree=2"]
    run_ranks(begin_and_save, 2, words, str(tmp_path / "two"))
    assert digest(tmp_path / "two" / TAG)["weights_sha256"] == digest(engine)["weights_sha256"]


@pytest.mark.parametrize(
    ("family", "word", "told"),
    [
        ("llama", "model.qk_norm=head", "model.qk_norm: given 'head', allowed in a llama model: 'none'"),
        ("llama", "model.logit_soft_cap=30.0", "model.logit_soft_cap"),
        ("llama", "model.rotary_layout=interleaved", "model.rotary_layout"),
        ("gpt2", "seed=1", "model.positions: given 'rotary', allowed in a gpt2 model: 'learned'"),
        ("bert", "seed=1", "--family: given 'bert', allowed: gpt2, llama"),
    ],
)
def test_a_model_that_a_family_cannot_be_is_refused_by_its_fields(
    family: str, word: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(dump_config(load_config(PATH, [*LLAMA, word])))
    with pytest.raises(UserError) as refused:
        export_as(family, tmp_path, run_config=tmp_path / "config.yaml", output=tmp_path / "out")
    assert told in str(refused.value) and not (tmp_path / "out").exists()
