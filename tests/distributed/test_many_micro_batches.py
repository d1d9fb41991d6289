"""Three stages and many micro-batches: the depth at which a gradient scaled once too often shows (DeepSpeed#8152)."""

from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import run_ranks

ROWS = 8
SMALL = [
    "model.num_layers=4",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "model.vocab_size=64",
    "phases.0.sequence_length=16",
    f"phases.0.global_batch_size={ROWS}",
    "parallel.micro_batch_size=1",
    "parallel.zero_stage=0",
    "train.precision=fp32",
]


def norms(overrides: list[str]) -> Any:
    """On one rank: loss and gradient norm of the first steps."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config("configs/tiny/transformer.yaml", [*SMALL, *overrides])
    engine, found = Engine(config, process=start_processes()), []
    for step in range(3):
        rows = torch.randint(0, 64, (ROWS, 17), generator=torch.Generator().manual_seed(step))
        result = engine.train_step(rows[:, :-1], rows[:, 1:], moment=Timeline(config.phases).at(step))
        found.append((engine.global_mean(result.loss), float(result.grad_norm)))
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_three_stages_and_eight_micro_batches_equal_one_process() -> None:
    one = run_ranks(norms, 1, [])[0]
    three = run_ranks(norms, 3, ["parallel.pipeline_parallel_degree=3"])[0]
    torch.testing.assert_close(torch.tensor(three), torch.tensor(one), rtol=1e-5, atol=0)
