"""The start of an attempt is split into parts that add up, told once and kept."""

from typing import Any

import pytest
import torch

from hierlm.train.loop import Completed
from hierlm.train.record.console import Console
from hierlm.train.record.recorder import Recorder
from hierlm.train.record.start_up import StartUp, StartUpHook


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the next looks at the clock see."""
    times: list[float] = []
    monkeypatch.setattr("hierlm.train.record.start_up.perf_counter", lambda: times.pop(0))
    return times


def test_parts_add_up_and_what_took_no_time_is_not_told(clock: list[float]):
    clock += [10.0, 12.5, 12.51, 14.0, 14.5]
    start_up = StartUp()
    for part in ("imports", "process group", "model and engine", "imports"):
        start_up.done(part)
    assert start_up.description == "4.5 s: imports 3.0, model and engine 1.5"
    record = start_up.record()
    total = record.pop("start_up_seconds")
    assert total == pytest.approx(sum(record.values())) and record["imports_seconds"] == pytest.approx(3.0)


def test_the_first_step_alone_is_recorded(clock: list[float]):
    clock += [0.0, 2.0, 5.0]
    kept: list[Any] = []
    recorder = Recorder()
    recorder.record = kept.append  # type: ignore[method-assign]
    start_up = StartUp()
    start_up.done("imports")
    hook = StartUpHook(start_up, recorder=recorder, console=Console(None))
    for step in (8, 9):
        result: Any = type("Result", (), {"loss": torch.tensor(1.0)})
        hook.after_step(Completed(step, moment=None, result=result, is_last=False))  # type: ignore[arg-type]
    parts = {"imports_seconds": 2.0, "first_step_seconds": 3.0, "start_up_seconds": 5.0}
    assert kept == [{"kind": "start_up", "step": 8, **parts}]
