"""What travels between stages may have other shapes in every step: a drawn shorten factor changes all of a valley."""

from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import run_ranks

STEPS = 8
LENGTH = 16
SETTINGS = [
    "model.hierarchy='3@1 4@3 3@1'",
    "model.shorten_factors=[2,3]",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=24",
    "model.vocab_size=32",
    f"phases.0.sequence_length={LENGTH}",
    "phases.0.global_batch_size=4",
    "parallel.micro_batch_size=2",
    "parallel.stage_cut=uniform",  # inside the valley, on four stages with ranks that only forward
    "train.precision=fp32",
]


def train(overrides: list[str]) -> Any:
    """On one rank: the factor drawn, loss and norm of every step, and an evaluation at the same length after each."""
    from hierlm.nn.resampling.shortening import Shorten
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config("configs/tiny/hourglass.yaml", [*SETTINGS, *overrides])
    engine, timeline, found = Engine(config, process=start_processes()), Timeline(config.phases), []
    for step in range(STEPS):
        whole = torch.randint(0, 32, (4, LENGTH + 1), generator=torch.Generator().manual_seed(step))
        result = engine.train_step(whole[:, :-1], whole[:, 1:], moment=timeline.at(step))
        nats = engine.evaluate(whole[:2, :-1], whole[:2, 1:])
        found.append((engine.global_mean(result.loss), float(result.grad_norm), float(nats.mean())))
    drawn = [layer.factor for layer in engine.module.local_layers.values() if isinstance(layer, Shorten)]
    return found, drawn


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("num_stages", "zero"), [(2, 1), pytest.param(4, 0, marks=pytest.mark.slow)], ids=["two", "four"]
)
def test_a_factor_drawn_in_every_step_is_right_over_stages(num_stages: int, zero: int) -> None:
    [(expected, [_])] = run_ranks(train, 1, [])
    layout = [f"parallel.pipeline_parallel_degree={num_stages}", f"parallel.zero_stage={zero}"]
    every_rank = run_ranks(train, num_stages, layout)
    assert [] in [drawn for _, drawn in every_rank]  # some ranks do not hold the layer that draws
    for found, _ in every_rank:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=0)
