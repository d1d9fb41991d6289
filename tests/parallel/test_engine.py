"""The engine trains, and a saved engine continues bit for bit, at every ZeRO stage and precision."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.durable import FileWriter
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import run_ranks

CONFIG = "configs/tiny/transformer.yaml"
STEPS = 6


def losses(overrides: list[str], *, first: int = 0, last: int = STEPS, save: str = "", load: str = "") -> Any:
    """Loss and gradient norm of steps first..last-1 on this rank's engine."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes

    config = load_config(CONFIG, overrides)
    engine = Engine(config, process=start_processes())
    if load:
        engine.load(Path(load))
    timeline, found = Timeline(config.phases), []
    for step in range(first, last):
        moment = timeline.at(step)
        size = (moment.phase.global_batch_size, moment.phase.sequence_length + 1)
        rows = torch.randint(0, 256, size, generator=torch.Generator().manual_seed(step))
        mine = rows[list(engine.local_rows(size[0]))]
        result = engine.train_step(mine[:, :-1], mine[:, 1:], moment=moment)
        found.append((engine.global_mean(result.loss), float(result.grad_norm)))
    if save:
        engine.save(Path(save), client_state={"iteration": last}, open_file=FileWriter(Path(save)).open)
    return found


def layout(dp: int, stage: int, precision: str = "fp32") -> list[str]:
    return [
        "phases.0.sequence_length=32",
        "phases.0.global_batch_size=8",
        "parallel.micro_batch_size=2",
        f"parallel.data_parallel_degree={dp}",
        f"parallel.zero_stage={stage}",
        f"train.precision={precision}",
        "model.dropout=0.1",
    ]


def run(
    overrides: list[str], world_size: int, *, first: int = 0, last: int = STEPS, save: str = "", load: str = ""
) -> Any:
    return run_ranks(_losses_between, world_size, overrides, first, last, save, load)[0]


def _losses_between(overrides: list[str], first: int, last: int, save: str, load: str) -> Any:
    return losses(overrides, first=first, last=last, save=save, load=load)


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        (3, "bf16"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16")]
        ),
    ],
)
def test_a_saved_engine_continues_to_the_last_bit(stage: int, precision: str) -> None:
    settings = layout(2, stage, precision)
    with tempfile.TemporaryDirectory() as folder:
        whole = run(settings, 2)
        begun = run(settings, 2, last=3, save=folder)
        rest = run(settings, 2, first=3, load=folder)
    assert begun + rest == whole


@pytest.mark.distributed
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_equal_one(stage: int) -> None:
    without_dropout = ["model.dropout=0.0"]
    one = run(layout(1, 0) + without_dropout, 1)
    two = run(layout(2, stage) + without_dropout, 2)
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-5, atol=0)
