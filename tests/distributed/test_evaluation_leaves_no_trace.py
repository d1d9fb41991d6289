"""An evaluation in the middle of training changes nothing after it, to the last bit, recurrent memory included."""

from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from tests.distributed.sizes import TWO_LAYERS
from tests.distributed.spawn import run_ranks

STEPS = 5
SMALL = [
    *TWO_LAYERS,
    "model.memory_length=20",
    "model.dropout=0.1",
    "model.evaluation_memory_length=32",
    "phases.0.sequence_length=16",
    "phases.0.global_batch_size=4",
    "parallel.micro_batch_size=1",
]


def train(overrides: list[str], evaluates: bool) -> Any:
    """On one rank: loss and norm of every step, then fingerprints of weights, moments and memory."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config("configs/tiny/transformer_xl.yaml", [*SMALL, *overrides])
    engine, timeline, steps = Engine(config, process=start_processes()), Timeline(config.phases), []
    mine = list(engine.local_rows(4))
    for step in range(STEPS):
        tokens = rows(4, 17, seed=step)[mine]
        starts = torch.full((len(mine),), step == 0)
        result = engine.train_step(tokens[:, :-1], tokens[:, 1:], moment=timeline.at(step), starts=starts)
        steps.append((engine.global_mean(result.loss), float(result.grad_norm)))
        if evaluates and step in (0, 2):
            for number, length in enumerate((16, 16, 9)):  # the shape of training, and another
                held_out = rows(6, length + 1, seed=1000 + number)
                engine.evaluate(held_out[:, :-1], held_out[:, 1:], continues=number > 0)
    return steps, engine._kept_over_switch(timeline.at(STEPS - 1))


def rows(count: int, length: int, *, seed: int) -> torch.Tensor:
    return torch.randint(0, 64, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("dp", "pp", "zero"),
    [(1, 1, 0), *(pytest.param(*where, marks=pytest.mark.slow) for where in [(2, 2, 1), (2, 1, 3)])],
)
def test_an_evaluation_in_the_middle_of_training_changes_nothing_after_it(dp: int, pp: int, zero: int) -> None:
    layout = [
        f"parallel.data_parallel_degree={dp}",
        f"parallel.pipeline_parallel_degree={pp}",
        f"parallel.zero_stage={zero}",
    ]
    without, between = (run_ranks(train, dp * pp, layout, evaluates) for evaluates in (False, True))
    assert between == without
    assert any(kept["recurrent memory"] for _, kept in without)
