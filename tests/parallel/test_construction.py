"""A rank never holds more than its own part of a model and one layer, however it is built."""

import ctypes
import resource
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import nn

from hierlm import models
from hierlm.config.load import load_config
from hierlm.models.config import ModelConfig
from hierlm.parallel.absent_peers import without_peers
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.seams.parameters import stored
from hierlm.parallel.stage_model import build_stage
from tests.distributed.spawn import run_ranks

SIZES = {"vocab_size": 4096, "hidden_dim": 768, "num_heads": 8, "ffn_dim": 3072, "num_layers": 12}
ONE_LAYER = 4 * (4 * 768 * 768 + 2 * 768 * 3072)
"""Bytes of a block, the largest."""
SLACK = 16 << 20
"""For what is no weight."""


def settings(sizes: dict[str, int]) -> list[str]:
    return [f"model.{name}={value}" for name, value in sizes.items()]


def peak_after_start() -> int:
    """What this process has come to at most so far, in bytes; from now on the C library keeps nothing that is freed."""
    ctypes.CDLL(None).mallopt(-3, 1 << 16)  # M_MMAP_THRESHOLD
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return max(held, peak())


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def kept(parameters: Iterable[nn.Parameter]) -> int:
    """Bytes that stay; a tied weight counts once."""
    return sum({id(p): stored(p).numel() * stored(p).element_size() for p in parameters}.values())


def slices(tied: bool) -> tuple[int, int]:
    """(at most, what stays) of the first of eight tensor-parallel ranks."""
    config = load_config("configs/tiny/transformer.yaml", [*settings(SIZES), f"model.tie_embeddings={tied}"]).model
    small = load_config("configs/tiny/transformer.yaml", ["model.num_layers=1", "model.num_heads=8"]).model
    with without_peers(Degrees(tensor=8)) as groups:
        build_stage(small, seed=0, stage=range(4), groups=groups)  # what is imported late
        before = peak_after_start()
        stage = build_stage(config, seed=0, stage=range(15), groups=groups)
        return peak() - before, kept(p for layer in stage.layers.values() for p in layer.parameters())


def partitions(precision: str) -> tuple[int, int]:
    """(at most, what stays) of a rank that shares all weights with another, as far as DeepSpeed's engine."""
    from hierlm.parallel.build import build_module
    from hierlm.parallel.groups import start_groups
    from hierlm.parallel.process import start_processes

    start_processes()
    layout = ["parallel.data_parallel_degree=2", "parallel.zero_stage=3", f"train.precision={precision}"]
    config = load_config("configs/tiny/transformer.yaml", [*settings(SIZES), *layout])
    groups = start_groups(Degrees.of(config.parallel))
    small = load_config("configs/tiny/transformer.yaml", ["model.num_layers=1", *layout])
    build_module(small, groups)
    before = peak_after_start()
    module = build_module(config, groups)
    return peak() - before, kept(module.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_what_is_sliced_is_never_whole_but_for_one_layer(tied: bool) -> None:
    [(most, stays)] = run_ranks(slices, 1, tied)
    assert stays < 4 * SIZES["num_layers"] * ONE_LAYER / 8 / 3  # an eighth of all, and some embeddings
    assert most <= 1.3 * stays + ONE_LAYER + SLACK, (most, stays)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_zero_3_partitions_is_never_whole_but_for_two_layers(precision: str) -> None:
    for most, stays in run_ranks(partitions, 2, precision):
        assert stays < SIZES["num_layers"] * ONE_LAYER
        assert most <= 1.1 * stays + 2 * ONE_LAYER + SLACK, (most, stays)


def test_the_first_weights_are_those_of_the_whole_model() -> None:
    [different] = run_ranks(different_from_whole, 1)
    assert different == []


def different_from_whole() -> list[str]:
    """The slices of the first of two tensor-parallel ranks that are no cut of the whole model's weights."""
    from hierlm.models.assembly import LanguageModel

    config: ModelConfig = models.architecture("transformer").Config.model_validate(
        {"arch": "transformer", "vocab_size": 30, "hidden_dim": 16, "num_heads": 2, "ffn_dim": 24, "num_layers": 3}
    )
    whole = dict(LanguageModel(config, seed=4).named_parameters())
    with without_peers(Degrees(tensor=2)) as groups:
        stage = build_stage(config, seed=4, stage=range(6), groups=groups)
        parts = {f"layers.{i}.{name}": p for i, layer in stage.layers.items() for name, p in layer.named_parameters()}
    assert parts.keys() == whole.keys()
    return [name for name, part in parts.items() if not torch.equal(beginning(whole[name], like=part), part)]


def beginning(whole: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    """The first values along every dimension, of the size of a part."""
    for dim, size in enumerate(like.shape):
        whole = whole.narrow(dim, 0, size)
    return whole
