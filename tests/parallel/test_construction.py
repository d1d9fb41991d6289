"""A rank never holds more than its own part of a model and one layer, however it is built."""

import gc
import resource
from pathlib import Path

import pytest

from hierlm import models
from hierlm.models.config import ModelConfig
from hierlm.parallel.absent_peers import without_peers
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.stage_model import build_stage
from tests.distributed.spawn import run_ranks

SIZES = {"vocab_size": 4096, "hidden_dim": 768, "num_heads": 8, "ffn_dim": 3072, "num_layers": 12}
MOST = 1.3
"""Times what the rank keeps, and one layer beside it."""


def held_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def config_of(**options: object) -> ModelConfig:
    config: ModelConfig = models.architecture("transformer").Config.model_validate(
        {"arch": "transformer", **SIZES, **options}
    )
    return config


def built(tied: bool) -> tuple[int, int, int]:
    """(what it came to at most, what the rank keeps, the largest layer), in bytes."""
    config = config_of(tie_embeddings=tied)
    with without_peers(Degrees(tensor=8)) as groups:
        build_stage(
            config_of(num_layers=1, hidden_dim=64), seed=0, stage=range(4), groups=groups
        )  # what is imported late
        gc.collect()
        before = max(held_bytes(), peak_bytes())
        stage = build_stage(config, seed=0, stage=range(15), groups=groups)
        kept = {id(p): p.numel() * 4 for layer in stage.layers.values() for p in layer.parameters()}
        block = 4 * (4 * 768 * 768 + 2 * 768 * 3072)
        return peak_bytes() - before, sum(kept.values()), block


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_cut_is_never_whole_but_for_one_layer(tied: bool) -> None:
    [(peak, kept, layer)] = run_ranks(built, 1, tied)
    assert peak <= MOST * kept + layer + (16 << 20), (peak, kept, layer)
