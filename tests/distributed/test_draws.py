"""Dropout, recompute and recurrent memory depend on no layout and on no micro-batch size either."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from hierlm.config.load import load_config
from hierlm.models.config import ModelConfig
from hierlm.nn.basic.dropout import Dropout
from hierlm.nn.layer import Layer, SharedWeights
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import run_ranks

STEPS = 4
OVERRIDES = [
    "phases.0.sequence_length=16",
    "phases.0.global_batch_size=8",
    "parallel.micro_batch_size=2",
    "train.precision=fp32",
    "model.vocab_size=96",
    "model.hidden_dim=32",
    "model.ffn_dim=48",
    "model.num_heads=4",
]
LAYOUTS = [(1, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2)]


class ToyConfig(ModelConfig):
    """A recurrent model of three layers: what a memory does wrong shows in the loss."""

    arch: str = "toy"
    vocab_size: int = 96
    dropout: float = 0.2


class Embed(Layer):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(96, 16)

    def forward(self, stream, memory=None):
        return stream.with_hidden(self.tokens(stream.hidden)), None


class Accumulate(Layer):
    """Adds a decaying sum of all earlier segments; a second update of the memory in one pass doubles it."""

    def __init__(self, dropout):
        super().__init__()
        self.mix, self.drop = nn.Linear(16, 16), Dropout(dropout)

    def initial_memory(self, batch_size, *, device, dtype):
        return (torch.zeros(batch_size, 16, device=device, dtype=dtype),)

    def forward(self, stream, memory=None):
        x = stream.hidden
        y = x + self.drop(torch.tanh(self.mix(x + memory[0][:, None])))
        return stream.with_hidden(y), (memory[0] * 0.9 + y.mean(dim=1),)


class Head(Layer):
    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(16, 96, bias=False)

    def forward(self, stream, memory=None):
        return stream.with_hidden(self.projection(stream.hidden)), None


def toy_layers(config: ToyConfig) -> list[Any]:
    return [Embed, *[partial(Accumulate, config.dropout)] * 2, Head]


class Toy:
    TENSOR_PLAN = {r"layers\.\d+\.(tokens|projection)": "vocabulary", r"layers\.\d+\.mix": "replicate"}  # noqa: RUF012
    Config = ToyConfig
    layers = staticmethod(toy_layers)

    @staticmethod
    def shared_weights(config: ToyConfig) -> list[SharedWeights]:
        return [SharedWeights(0, "tokens.weight", 3, "projection.weight")]


def train(arch: str, dropout: float, overrides: list[str]) -> list[Any]:
    """On one rank: loss, gradient norm of every step, with an evaluation after each."""
    from hierlm import models
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config("configs/tiny/transformer.yaml", [*OVERRIDES, *overrides])
    if arch == "toy":
        known = models.architecture
        models.architecture = lambda name: Toy if name == "toy" else known(name)
        config = config.model_copy(update={"model": ToyConfig(dropout=dropout)})
    engine = Engine(config, process=start_processes())
    timeline, found = Timeline(config.phases), []
    for step in range(STEPS):
        moment = timeline.at(step)
        whole = torch.randint(0, 96, (8, 17), generator=torch.Generator().manual_seed(step))
        mine = whole[list(engine.local_rows(8))]
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=moment)
        found.append((engine.global_mean(result.loss), float(result.grad_norm)))
        engine.evaluate(whole[:, :-1], whole[:, 1:])
    return found


def run(arch: str, layout: tuple[int, int, int], *overrides: str, dropout: float = 0.2) -> torch.Tensor:
    dp, tp, pp = layout
    degrees = [
        f"parallel.data_parallel_degree={dp}",
        f"parallel.tensor_parallel_degree={tp}",
        f"parallel.pipeline_parallel_degree={pp}",
    ]
    every_rank = run_ranks(train, dp * tp * pp, arch, dropout, [*degrees, *overrides])
    assert all(rank == every_rank[0] for rank in every_rank)
    return torch.tensor(every_rank[0])


@pytest.fixture(scope="module")
def dropped() -> torch.Tensor:
    return run("transformer", (1, 1, 1), "model.dropout=0.1")


@pytest.fixture(scope="module")
def remembered() -> torch.Tensor:
    return run("toy", (1, 1, 1))


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("layout", "recompute"),
    [
        ((1, 2, 2), "none"),
        ((1, 2, 2), "full"),
        ((1, 2, 1), "selective"),
        pytest.param((1, 1, 1), "full", marks=pytest.mark.slow),
        pytest.param((1, 1, 1), "selective", marks=pytest.mark.slow),
        pytest.param((1, 1, 2), "selective", marks=pytest.mark.slow),
    ],
)
def test_dropout_is_the_same_at_every_cut_and_when_recomputed(layout: Any, recompute: str, dropped: Any) -> None:
    found = run("transformer", layout, "model.dropout=0.1", f"parallel.activation_recompute={recompute}")
    torch.testing.assert_close(found, dropped, rtol=1e-5, atol=0)


@pytest.mark.distributed
@pytest.mark.slow
def test_dropout_matters(dropped: Any) -> None:
    without = run("transformer", (1, 1, 1), "model.dropout=0.0")
    assert not torch.allclose(without, dropped, rtol=1e-4)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("layout", "recompute"),
    [
        ((1, 1, 2), "full"),
        ((1, 2, 2), "none"),
        pytest.param((1, 1, 1), "full", marks=pytest.mark.slow),
        pytest.param((1, 1, 2), "selective", marks=pytest.mark.slow),
        pytest.param((1, 2, 1), "none", marks=pytest.mark.slow),
    ],
)
def test_recurrent_memory_is_the_same_in_every_layout(layout: Any, recompute: str, remembered: Any) -> None:
    found = run("toy", layout, f"parallel.activation_recompute={recompute}")
    torch.testing.assert_close(found, remembered, rtol=1e-5, atol=0)


@pytest.mark.distributed
def test_recurrent_memory_belongs_to_its_row_at_any_data_parallel_degree(remembered: Any) -> None:
    torch.testing.assert_close(run("toy", (2, 1, 2)), remembered, rtol=1e-5, atol=0)
