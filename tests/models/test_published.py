"""The configs of the papers load, and their models have the published numbers of parameters."""

from pathlib import Path

import pytest

from hierlm import models
from hierlm.config.load import load_config

PAPERS = Path(__file__).parents[2] / "configs" / "papers"
FILES = sorted(PAPERS.glob("*/*.yaml"))

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


def test_sandwich_has_the_published_size_but_for_what_its_header_names():
    """The code's own count, 208.9M for the 204 bytes of enwik8, less its table of position keys."""
    d, f, symbols = 768, 4096, 204
    attention, feed_forward, norms = 24 * 4 * d * d, 24 * (2 * d * f + f + d), 29 * 2 * 2 * d
    theirs = attention + feed_forward + norms + 2 * symbols * d + symbols + 24 * 8
    assert theirs + 8192 * d // 8 == 208_924_044
    ours_alone = 24 * 4 * d + 2 * (256 - symbols) * d  # biases of attention; bytes that do not occur
    theirs_alone = (29 * 2 - 49) * 2 * d + symbols + 24 * 8  # norms of skipped sublayers, output bias, spans
    assert count(PAPERS / "sandwich" / "enwik8.yaml") == theirs + ours_alone - theirs_alone


def rates(name: str) -> list[tuple[str, float, int, int]]:
    """Of each phase: decay, peak, steps of the warm-up, steps."""
    phases = load_config(PAPERS / f"{name}.yaml").phases
    curves = [phase.learning_rate for phase in phases]
    return [(c.decay, c.peak, c.warmup.steps, p.num_steps) for c, p in zip(curves, phases, strict=True)]


def test_sandwich_drops_and_ends_as_its_script_says():
    """--dropout 0.4 of attention weights and hidden units; 150 x 1000 steps, then 20 x 1000 at a tenth of the rate."""
    model = load_config(PAPERS / "sandwich" / "enwik8.yaml").model
    assert (model.dropout, model.attention_dropout, model.feed_forward_dropout) == (0.0, 0.4, 0.4)
    first, second = rates("sandwich/enwik8")
    assert first == ("constant", 4e-4, 32_000, 150_000)
    assert second == ("constant", pytest.approx(first[1] / 10), 0, 20_000)


@pytest.mark.parametrize("name", ["enwik8", "wikitext103"])
def test_skip_cross_head_drops_neither_embedding_nor_waves(name):
    """--emb_dropout 0.0 --dropatt 0.0."""
    model = load_config(PAPERS / "skip_cross_head_xl" / f"{name}.yaml").model
    assert (model.embedding_dropout, model.attention_dropout) == (0.0, 0.0)


def test_transformer_xls_cosine_counts_from_step_0_where_there_is_a_warm_up():
    assert rates("transformer_xl/enwik8-24l") == [("cosine_from_start", 2.5e-4, 4_000, 400_000)]
    assert rates("transformer_xl/wikitext103-large") == [("cosine_from_start", 2.5e-4, 16_000, 4_000_000)]


def test_a_stage_of_the_curriculum_warms_up_for_a_tenth_of_its_steps():
    assert rates("recurrent_memory_transformer/curriculum") == [("linear", 5e-5, 25_000, 250_000)] * 9


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
