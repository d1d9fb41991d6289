"""A step that nobody logs never waits for a device: nothing it holds is read while the step is started.

Nor does it do on the host what need be done once: no layer is built in it, on the meta device either.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from hierlm.config.load import load_config
from hierlm.models.assembly import is_recurrent
from tests.distributed.spawn import run_ranks
from tests.distributed.test_layout_equality import settings
from tests.parallel.host_reads import host_reads

STEPS = 3


def reads_of_a_step(model: str, overrides: list[str]) -> list[str]:
    """On one rank: what the third step reads and which modules it builds; shapes are known by then."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    config = load_config(f"configs/tiny/{model}.yaml", overrides)
    engine, timeline = Engine(config, process=start_processes()), Timeline(config.phases)
    num_rows = len(engine.local_rows(config.phases[0].global_batch_size))
    for step in range(STEPS):
        tokens = torch.arange(num_rows * 23).reshape(num_rows, 23) * (step + 1) % 97
        with host_reads() as found, modules_built() as built:
            result = engine.train_step(tokens[:, :-1], tokens[:, 1:], moment=timeline.at(step))
            sent = engine.send(result, flags=(0.0, 1.0))
        measured = sent.read()
        assert math.isfinite(measured.loss) and measured.flags[1] == engine.process.world_size
    assert is_recurrent(config.model) is (model == "transformer_xl")
    return [*found, *built]


@contextmanager
def modules_built() -> Iterator[list[str]]:
    """The classes of all modules that are made inside."""
    made: list[str] = []
    begin = torch.nn.Module.__init__

    def noted(module: torch.nn.Module, *args: Any, **given: Any) -> None:
        made.append(type(module).__name__)
        begin(module, *args, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "__init__", noted)
        yield made


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("model", "layout", "zero", "precision"),
    [
        ("transformer", (1, 1, 1), 0, "fp32"),
        ("transformer", (2, 1, 1), 1, "bf16"),
        ("transformer_xl", (1, 1, 2), 1, "fp32"),
        pytest.param("transformer", (2, 1, 1), 2, "bf16", marks=pytest.mark.slow),
        pytest.param("transformer", (2, 1, 1), 3, "bf16", marks=pytest.mark.slow),
        pytest.param("hourglass", (1, 2, 2), 1, "fp32", marks=pytest.mark.slow),
    ],
)
def test_a_step_reads_nothing_off_the_device(model: str, layout: Any, zero: int, precision: str) -> None:
    overrides = [*settings(model, layout, zero), f"train.precision={precision}"]
    for found in run_ranks(reads_of_a_step, math.prod(layout), model, overrides):
        assert found == []


def test_a_module_would_be_seen() -> None:
    with modules_built() as built:
        torch.nn.Linear(2, 2)
    assert built == ["Linear"]


def test_a_read_would_be_seen() -> None:
    number = torch.tensor(1.0)
    for read in (float, bool, torch.nonzero, lambda number: number.tolist()):
        with host_reads() as found:
            read(number)
        assert len(found) >= 1, read
