"""The configs of the papers load, and their models have the published numbers of parameters."""

from pathlib import Path

import pytest

from hierlm import models
from hierlm.config.load import load_config

PAPERS = Path(__file__).parents[2] / "configs" / "papers"
FOLDERS = ("hourglass", "dynamic_pooling", "multi_scale", "sandwich", "hm_lstm")
FILES = sorted(path for folder in FOLDERS for path in (PAPERS / folder).glob("*.yaml"))

TABLE_1 = {  # 2110.13711, Table 1, millions
    "6at1": 21,
    "8at1": 28,
    "10at1": 34,
    "12at1": 41,
    "14at1": 48,
    "2at1_1at3_2at1": 24,
    "2at1_4at4_2at1": 34,
    "2at1_4at3_2at1": 34,
    "2at1_8at4_2at1": 48,
    "2at1_8at3_2at1": 48,
    "3at1_8at4_3at1": 55,
    "4at1_8at4_4at1": 62,
    "2at1_16at3_2at1": 75,
    "5at1_8at2_5at1": 69,
    "2at1_1at2_4at4_1at2_2at1": 48,
}


def count(path: Path, **changes: object) -> int:
    config = load_config(path).model
    return models.architecture(config.arch).num_parameters(config.model_copy(update=changes))


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.stem}" for path in FILES])
def test_every_paper_config_is_valid(path):
    assert load_config(path).model.arch in models.names()


@pytest.mark.parametrize(("row", "millions"), TABLE_1.items())
def test_hourglass_table_1_counts_to_the_rounded_million(row, millions):
    assert round(count(PAPERS / "hourglass" / f"enwik8-table1-{row}.yaml") / 1e6) == millions


def test_dynamic_pooling_has_41_0_million_and_its_predictor_one_more():
    at = PAPERS / "dynamic_pooling"
    assert round(count(at / "text8-whitespace.yaml", vocab_size=27) / 1e6, 1) == 41.0
    predictor = count(at / "text8-gumbel.yaml") - count(at / "text8-whitespace.yaml")
    assert predictor == 512 * 2048 + 2048 + 2048 + 1


def test_dynamic_pooling_spans_28_to_69_million_from_8_to_20_layers():
    path = PAPERS / "dynamic_pooling" / "text8-whitespace.yaml"
    assert round(count(path, vocab_size=27, valley_layers=4) / 1e6) in (27, 28)
    assert round(count(path, vocab_size=27, valley_layers=16) / 1e6) in (68, 69)


def test_hm_lstm_equations_have_36_26_million_on_text8():
    path = PAPERS / "hm_lstm" / "text8.yaml"
    assert count(path, vocab_size=27, layer_norm=False) == pytest.approx(36.26e6, abs=1e4)


def test_sandwich_has_the_weights_of_24_plain_layers():
    path = PAPERS / "sandwich" / "enwik8.yaml"
    assert count(path) == count(path, sandwich=0)
    assert count(path, positions="rotary") == pytest.approx(208.0e6, abs=0.5e6)


def test_the_multi_scale_models_have_30_layers_of_which_9_on_tokens():
    bottom_up = load_config(PAPERS / "multi_scale" / "bottom-up-30.yaml").model
    top_down = load_config(PAPERS / "multi_scale" / "top-down-30.yaml").model
    assert bottom_up.num_blocks == top_down.num_blocks == 30
    assert bottom_up.layers_per_scale[0] + bottom_up.post_layers == top_down.layers_per_scale[0] == 9


def spec_sized(arch: str, **fields: object) -> int:
    """V = 256, D = 512, tied embeddings, scales 1, 4, 16, without any table of positions."""
    sizes = {"vocab_size": 256, "hidden_dim": 512, "num_heads": 8, "ffn_dim": 2048, "tie_embeddings": True}
    config = models.architecture(arch).Config(arch=arch, **sizes, **fields)
    return models.architecture(arch).num_parameters(config)


def test_multi_scale_counts_are_the_worked_examples_less_their_position_tables():
    """Worked by hand with learned positions: 512 rows at scale 1, 128 at scale 4, 32 at scale 16, D = 512."""
    positions = 512 * 512
    assert spec_sized("transformer", num_layers=6) == 19_308_544 - positions
    assert spec_sized("top_down", layers_per_scale=[2, 2, 2]) == 20_441_088 - positions - (128 + 32) * 512
    one_scale_embedding_less = 512  # tokens are told apart from units by having none
    bottom_up = spec_sized("bottom_up", layers_per_scale=[2, 2, 2], post_layers=1)
    assert bottom_up == 25_616_384 - positions - one_scale_embedding_less
    per_layer = 2 * 512  # an embedding for each coarser scale, in each layer
    assert spec_sized("retina", num_layers=6) == 19_308_544 - positions + 6 * per_layer
