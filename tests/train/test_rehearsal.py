"""A rehearsal of every phase leaves no trace: what follows is the same to the last bit."""

from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import run_ranks

TWO_PHASES = [
    "phases=[{name: short, duration: {steps: 2}, sequence_length: 16, global_batch_size: 4,"
    " learning_rate: {peak: 0.01}}, {name: long, duration: {steps: 2}, sequence_length: 32, global_batch_size: 2}]",
    "parallel.data_parallel_degree=2",
    "tracking.uri=none",
]


def steps_after_rehearsal(config_path: str, rehearsed: bool, stage: int) -> Any:
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.train.record.console import Console
    from hierlm.train.rehearsal import rehearse

    config = load_config(config_path, [*TWO_PHASES, f"parallel.zero_stage={stage}"])
    engine, timeline, losses = Engine(config, process=start_processes()), Timeline(config.phases), []
    if rehearsed:
        rehearse(engine, timeline, console=Console(None))
    for step in range(timeline.num_steps):
        moment = timeline.at(step)
        shape = (moment.phase.global_batch_size, moment.phase.sequence_length + 1)
        rows = torch.randint(256, shape, generator=torch.Generator().manual_seed(step))
        mine = rows[list(engine.local_rows(shape[0]))]
        starts = torch.tensor([moment.first_sample == 0]).expand(len(mine))  # what the loader says of lanes
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=moment, starts=starts)
        losses.append((float(result.loss), float(result.grad_norm)))
    return losses


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("config_path", "stage"), [("configs/tiny/transformer.yaml", 1), ("configs/tiny/transformer_xl.yaml", 0)]
)
def test_a_rehearsal_leaves_no_trace(config_path: str, stage: int) -> None:
    plain = run_ranks(steps_after_rehearsal, 2, config_path, False, stage)
    rehearsed = run_ranks(steps_after_rehearsal, 2, config_path, True, stage)
    assert rehearsed == plain
