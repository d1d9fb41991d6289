"""Which parameters of each architecture weight decay reaches: matrices and embeddings, whatever shape they have."""

import re

import pytest
import torch

from hierlm import models
from hierlm.models.assembly import LanguageModel, canonical_kinds, canonical_names, param_rules
from hierlm.models.config import ModelConfig
from hierlm.optim.param_groups import param_groups
from hierlm.optim.rules import own_terms
from tests.models.zoo import CASES, IDS, tiny_part

VECTORS = re.compile(r".*(\.bias|\.bias_[ih]h_l0|_bias(\.weight)?|norm\.weight|\.null)")
"""Biases, u and v among them, norm gains, null groups."""


def within(*places: str, holder: str = "") -> set[str]:
    return {f"layers.*.{holder}{place}.weight" for place in places}


ENDS = within("tokens", "projection")
FEED_FORWARD = ("feed_forward.expand", "feed_forward.contract")
BLOCK = (*(f"attention.{name}" for name in ("query", "key", "value", "output")), *FEED_FORWARD)
RELATIVE_BLOCK = (*BLOCK, "attention.position")
CELL = {f"layers.*.cells.*.{name}.weight" for name in ("from_below", "recurrent", "from_above")}

DECAYED = {
    "bottom_up": ENDS | within(*BLOCK) | {"layers.*.scale_embeddings"},
    "dynamic_pooling": ENDS | within(*RELATIVE_BLOCK),
    "hm_lstm": ENDS | CELL | {"layers.*.gates.weight", "layers.*.levels.*.weight"},
    "hourglass": ENDS | within(*BLOCK) | within(*BLOCK, holder="resample."),
    "lmu": within("tokens", "first.expand", "first.contract", *FEED_FORWARD)
    | {"layers.*.memory.reduce", "layers.*.memory.pool"},
    "lstm": ENDS | {"layers.*.lstm.weight_ih_l0", "layers.*.lstm.weight_hh_l0"},
    "recurrent_memory_transformer": within("embed.tokens")
    | within(*RELATIVE_BLOCK, holder="blocks.*.")
    | {"layers.*.memory"},
    "retina": ENDS | within(*BLOCK) | {"layers.*.scale_embeddings.*"},
    "skip_cross_head_xl": ENDS | within(*RELATIVE_BLOCK, holder="block."),
    "top_down": ENDS | within(*BLOCK, "merge"),
    "transformer": ENDS | within(*BLOCK),
    "transformer_xl": within("tokens") | within(*RELATIVE_BLOCK, holder="block."),
}
"""Of the tiny configs; a star stands for a number."""


def config_of(name: str, index: int = 0) -> ModelConfig:
    part = tiny_part(name, index)
    config: ModelConfig = models.architecture(name).Config.model_validate(part)
    return config


def decayed(config: ModelConfig) -> tuple[set[str], set[str]]:
    """(names that weight decay reaches, names it does not)."""
    with torch.device("meta"):
        named = dict(LanguageModel(config, seed=0).named_parameters())
    name_of = {id(parameter): name for name, parameter in named.items()}
    groups = param_groups(named.items(), kinds=canonical_kinds(config), weight_decay=0.1)
    found = {group["weight_decay"]: {name_of[id(p)] for p in group["params"]} for group in groups}
    return found[0.1], found[0.0]


@pytest.mark.parametrize("name", models.names())
def test_the_decayed_names_of_an_architecture(name: str) -> None:
    found, _ = decayed(config_of(name))
    assert {re.sub(r"\.\d+(?=\.|$)", ".*", each) for each in found} == DECAYED[name]


@pytest.mark.parametrize(("name", "index"), CASES, ids=IDS)
def test_decay_reaches_all_but_vectors_in_every_variant(name: str, index: int) -> None:
    reached, spared = decayed(config_of(name, index))
    assert {each for each in reached if VECTORS.fullmatch(each)} == set()
    assert {each for each in spared if not VECTORS.fullmatch(each)} == set()


def test_decay_reaches_the_tables_and_projections_of_frequency_bins() -> None:
    fields = {"cutoffs": [64, 128], "div_value": 2, "tie_embeddings": False, "share_position_biases": True}
    config = models.architecture("transformer_xl").Config.model_validate(tiny_part("transformer_xl") | fields)
    reached, spared = decayed(config)
    assert {"layers.0.tables.1.weight", "layers.0.projections.1.weight", "layers.3.projections.0.weight"} <= reached
    assert all(VECTORS.fullmatch(each) for each in spared)


@pytest.mark.parametrize("name", models.names())
def test_the_rules_of_an_architecture_stand_for_parameters_of_it(name: str) -> None:
    config = config_of(name)
    own_terms(canonical_names(config), {f"PARAM_RULES of {name}": param_rules(config)})
