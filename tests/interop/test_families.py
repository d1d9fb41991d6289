"""Published families under our names: the same numbers, whatever their files transpose and join."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.checkpoint.adapted_weights import adapted
from hierlm.checkpoint.safetensors_header import read_header
from hierlm.checkpoint.weights import SafetensorsWeights, as_matrix
from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.interop import family_named, names
from hierlm.interop.family import PLAIN, different_fields, model_part, parts, their_config
from hierlm.train.first_weights import refuse_what_does_not_fit
from tests.interop.making import GPT2_CONFIG, LLAMA_CONFIG, D, F, H, L, V, folder_of, gpt2, llama

FAMILIES: dict[str, Any] = {"llama": (llama, LLAMA_CONFIG), "gpt2": (gpt2, GPT2_CONFIG)}
GPT2_FIELDS = ["model.activation=gelu_tanh", "model.tie_embeddings=true"]


def part_of(family: str, **changes: Any) -> dict[str, Any]:
    config = {**FAMILIES[family][1], **changes}
    return model_part(family_named(family), config, where="config.json")  # type: ignore[arg-type]


def refused(family: str, **changes: Any) -> str:
    with pytest.raises(UserError) as error:
        part_of(family, **changes)
    assert all("\n" not in line for line in error.value.problems)
    return "\n".join(error.value.problems)


def test_every_family_is_written_out_here() -> None:
    assert names() == sorted(FAMILIES)
    assert family_named("family") is None and family_named("../x") is None and family_named(None) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_of_every_tensor_is_one_parameter(family: str) -> None:
    found = parts(family_named(family), num_layers=2)  # type: ignore[arg-type]
    places: dict[str, list[int]] = {}
    for part in found.values():
        places.setdefault(part.theirs, []).append(part.place)
    counts = {part.theirs: part.of for part in found.values()}
    assert all(sorted(of_one) == list(range(counts[name])) for name, of_one in places.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_those_of_the_parameters_here(family: str, tmp_path: Path) -> None:
    make, config = FAMILIES[family]
    ours, theirs = make()
    plain = SafetensorsWeights(read_header(folder_of(tmp_path, theirs, config) / "model.safetensors"))
    weights = adapted(plain, config, here=part_of(family), is_strict=True, source="x")
    assert {name: shape for name, shape in weights.shapes.items() if not name.endswith("wpe.weight")} == {
        name: tuple(tensor.shape) for name, tensor in ours.items()
    }
    for name, tensor in ours.items():
        rows, columns = as_matrix(tensor.shape)
        some = (range(rows // 2, rows), range(columns // 3, columns))
        matrix = tensor.reshape(rows, columns)
        assert torch.equal(weights.block(name, rows=range(rows), columns=range(columns)), matrix), name
        found = weights.block(name, rows=some[0], columns=some[1])
        assert torch.equal(found, matrix[some[0].start :, some[1].start :]), name


def test_a_bare_model_has_no_prefix(tmp_path: Path) -> None:
    ours, theirs = gpt2(prefix="")
    del theirs["lm_head.weight"]
    plain = SafetensorsWeights(read_header(folder_of(tmp_path, theirs, GPT2_CONFIG) / "model.safetensors"))
    weights = adapted(plain, GPT2_CONFIG, here=part_of("gpt2"), is_strict=True, source="x")
    assert set(weights.shapes) == {*ours, "wpe.weight"}


def test_a_copy_of_a_tied_head_is_left(tmp_path: Path) -> None:
    _, theirs = llama()
    config = {**LLAMA_CONFIG, "tie_word_embeddings": True}
    plain = SafetensorsWeights(read_header(folder_of(tmp_path, theirs, config) / "model.safetensors"))
    here = part_of("llama", tie_word_embeddings=True)
    weights = adapted(plain, config, here=here, is_strict=True, source="x")
    assert not [name for name in weights.shapes if "projection" in name or "lm_head" in name]


def test_a_config_is_what_it_means_here() -> None:
    sizes = {"vocab_size": V, "hidden_dim": D, "ffn_dim": F, "num_layers": L, "num_heads": H}
    assert part_of("llama") == {
        **PLAIN,
        **{"arch": "transformer", "norm": "rms", "feed_forward": "swiglu", "biases": False, "positions": "rotary"},
        **{**sizes, "num_kv_heads": 1, "norm_epsilon": 1e-6, "rotary_base": 500_000.0, "tie_embeddings": False},
    }
    assert part_of("gpt2") == {
        **PLAIN,
        **{"arch": "transformer", "norm": "layer", "feed_forward": "gelu_tanh", "biases": True},
        **{**sizes, "positions": "learned", "tie_embeddings": True, "norm_epsilon": 1e-5},
    }
    assert part_of("gpt2", n_inner=None)["ffn_dim"] == 4 * D
    assert part_of("llama", rope_parameters=None, rope_theta=7.0)["rotary_base"] == 7.0
    assert part_of("llama", num_key_value_heads=None)["num_kv_heads"] == H


@pytest.mark.parametrize("family", FAMILIES)
def test_configs_go_both_ways(family: str) -> None:
    part = part_of(family)
    again = their_config(family_named(family), part)  # type: ignore[arg-type]
    assert model_part(family_named(family), again, where="x") == part  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"model\.positions"):
        their_config(family_named(family), {**part, "positions": "sinusoidal"})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "changes", "field"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act: given 'gelu', allowed: 'silu'"),
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling"),
        ("llama", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
        ("llama", {"head_dim": 16}, "head_dim"),
        ("llama", {"sliding_window": 4096}, "sliding_window: given 4096, a field that is not known"),
        ("llama", {"hidden_size": None}, "hidden_size: missing"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"activation_function": "relu"}, "activation_function"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_what_cannot_be_represented_is_refused_by_its_field(family: str, changes: dict[str, Any], field: str) -> None:
    assert field in refused(family, **changes)


def test_all_fields_are_told_at_once() -> None:
    told = refused("llama", hidden_act="gelu", sliding_window=3, mlp_bias=True)
    assert all(name in told for name in ("hidden_act", "sliding_window", "mlp_bias"))


def test_a_model_that_computes_something_else_is_told_field_by_field() -> None:
    here = {**part_of("llama"), "rotary_base": 10_000.0, "norm": "layer"}
    assert list(different_fields(part_of("llama"), here)) == [
        "model.norm: given 'layer', and there it is 'rms'",
        "model.rotary_base: given 10000.0, and there it is 500000.0",
    ]


def test_a_folder_of_another_family_begins_a_run_by_its_names(tmp_path: Path) -> None:
    _, theirs = gpt2()
    folder = folder_of(tmp_path / "gpt2", theirs, GPT2_CONFIG)
    sizes = {"vocab_size": V, "hidden_dim": D, "ffn_dim": F, "num_layers": L, "num_heads": H}
    words = [*GPT2_FIELDS, *(f"model.{name}={size}" for name, size in sizes.items()), f"init_from.path={folder}"]
    with pytest.raises(UserError, match=r"model\.positions: given 'rotary', and there it is 'learned'"):
        refuse_what_does_not_fit(load_config("configs/tiny/transformer.yaml", words))
    refuse_what_does_not_fit(load_config("configs/tiny/transformer.yaml", [*words, "init_from.strict=false"]))
    with pytest.raises(UserError, match="another shape"):
        wide = [*words, "init_from.strict=false", "model.ffn_dim=24"]
        refuse_what_does_not_fit(load_config("configs/tiny/transformer.yaml", wide))
