"""Targets that count unequally: one loss for every micro-batch size and layout, and it is sum(w nats) / sum(w)."""

from dataclasses import replace
from typing import Any

import pytest

from tests.distributed.runs import Layout, Run, Together, compared, differences

MODEL = (
    *("model.vocab_size=97", "model.hidden_dim=16", "model.num_heads=4", "model.ffn_dim=24", "model.num_layers=12"),
    "phases=[{name: p, duration: {steps: 3}, sequence_length: 13, global_batch_size: 8, "
    "learning_rate: {peak: 0.01, decay: constant}}]",
    *("optim.eps=0.01", "optim.gradient_clip=0.3", "train.precision=fp32"),
)
COUNTED = 0.15
WAYS = {
    "micro-batches of 1": (Layout(1, 1, 1), 1),
    "micro-batches of 4": (Layout(1, 1, 1), 4),
    "dp 4": (Layout(4, 1, 1, 1), 1),
    "dp 2, ZeRO 3": (Layout(2, 1, 1, 3), 2),
    "pp 4": (Layout(1, 1, 4), 1),
    "dp 2, pp 2": (Layout(2, 1, 2, 1), 2),
    "tp 2, pp 2": (Layout(1, 2, 2), 2),
}
QUICK = ("micro-batches of 1", "dp 2, pp 2")


def way(name: str) -> Run:
    layout, size = WAYS[name]
    return Run("transformer", MODEL, layout, neutral=(f"parallel.micro_batch_size={size}",), counted=COUNTED)


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Together:
    alone = way("micro-batches of 1").alone
    runs: dict[Any, Run] = {"alone": alone, "all alike": replace(alone, counted=None)}
    runs |= {given["name"]: way(given["name"]) for given in compared(request) if "name" in given}
    return Together(runs, tmp_path_factory.mktemp("weighted"))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.matrix]) for name in WAYS]
)
def test_loss_norm_and_moments_are_those_of_one_process(name: str, made: Together) -> None:
    assert not differences(made[name], made["alone"])
    assert differences(made["alone"], made["all alike"]), "the weights change nothing"
