"""The models the contract is tested on: every architecture's tiny config, narrowed, and the variants listed here."""

from functools import cache
from pathlib import Path

import torch
from omegaconf import OmegaConf

from hierlm import models
from hierlm.contract.case import Case
from hierlm.models.assembly import LanguageModel

TINY = Path(__file__).parents[2] / "configs" / "tiny"

VARIANTS: dict[str, list[dict[str, object]]] = {
    "transformer": [
        {"positions": "sinusoidal", "tie_embeddings": True},
        {"positions": "relative"},
        {"sandwich": 1, "attention_windows": [3, 0], "tie_embeddings": True},
    ],
    "top_down": [
        {"scales": [1, 2, 4], "downsampling": "convolution", "upsampling": "linear", "tie_embeddings": True},
        {"scales": [1, 3], "layers_per_scale": [1, 1], "downsampling": "linear"},
    ],
    "bottom_up": [
        {"scales": [1, 2, 4], "downsampling": "convolution"},
        {"scales": [1, 3], "layers_per_scale": [1, 1], "downsampling": "linear", "tie_embeddings": True},
    ],
    "retina": [
        {"scales": [1, 3], "windows": [2], "downsampling": "linear"},
        {"scales": [1, 2, 4], "windows": [2, 1], "downsampling": "convolution", "tie_embeddings": True},
    ],
    "dynamic_pooling": [
        {"separators": list(range(64)), "max_groups": 3},
        {"separators": list(range(128)), "max_groups": 16},
        {"boundaries": "fixed", "fixed_factor": 3, "positions": "rotary", "max_groups": 16},
        {"boundaries": "gumbel", "max_groups": 16},
        {"boundaries": "entropy", "max_groups": 16},
    ],
    "hm_lstm": [{"layer_norm": False, "num_levels": 2}],
    "hourglass": [
        {"hierarchy": "1@1 1@2 1@6 1@2 1@1"},
        {"hierarchy": "1@1 2@4 1@1", "shortening": "linear", "upsampling": "linear"},
        {"hierarchy": "1@1 1@3 1@1", "shortening": "average", "upsampling": "repeat"},
        {"hierarchy": "1@1 1@2 1@4 1@2 1@1", "upsampling_query": "linear", "shortening_query": "linear"},
        {"hierarchy": "1@1 1@2 1@6 1@2 1@1", "positions": "relative", "upsampling_query": "saved"},
        {"hierarchy": "1@1 1@3 1@1", "shorten_factors": [2, 3]},
    ],
}
VARYING_SHAPES = {("dynamic_pooling", 0)}
"""Cases whose inner lengths depend on the text: another suffix may round the same sums another way."""
CASES = [(name, index) for name in models.names() for index in range(1 + len(VARIANTS.get(name, [])))]
IDS = [f"{name}-{index}" if index else name for name, index in CASES]


def tiny_part(name: str, index: int = 0) -> dict[str, object]:
    """The `model:` part of a case: the tiny config, or that with a variant's fields."""
    part = OmegaConf.to_container(OmegaConf.load(TINY / f"{name}.yaml"))["model"]
    return part if index == 0 else part | VARIANTS[name][index - 1]


@cache
def case(name: str, index: int = 0) -> Case:
    """What the contract looks at."""
    return Case(tiny_part(name, index), rounds_by_suffix=(name, index) in VARYING_SHAPES)


def built(name: str, index: int = 0) -> LanguageModel:
    """A case in float64, evaluation mode, with weights far from their initial scale."""
    return case(name, index).model


def tokens(length: int, *, batch: int = 2, seed: int = 3) -> torch.Tensor:
    """int64 [batch, length] bytes."""
    return torch.randint(256, (batch, length), generator=torch.Generator().manual_seed(seed))
