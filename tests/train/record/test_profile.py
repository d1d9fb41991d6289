"""The steps asked for are traced, no others, and their time is told by layer and by operator."""

import gzip
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hierlm.nn.layer import Layer
from hierlm.nn.stream import Stream
from hierlm.parallel.engine import StepResult
from hierlm.parallel.recompute import run_layers
from hierlm.phases.config import LearningRateConfig, PhaseConfig
from hierlm.phases.timeline import Timeline
from hierlm.run_dir import RunDir
from hierlm.train.config import ProfileConfig
from hierlm.train.loop import Completed
from hierlm.train.record.console import Console
from hierlm.train.record.profile import OUTSIDE, ProfileHook, milliseconds_by_layer
from tests.conftest import ROOT, hierlm

NUM_STEPS = 5


class Product(Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inside = nn.Linear(width, width)

    def forward(self, stream: Stream, memory: Any = None) -> tuple[Stream, Any]:
        return stream.with_hidden(self.inside(stream.hidden.repeat_interleave(1, dim=0))), memory


def step(layers: dict[int, Layer], recompute: str = "none") -> None:
    x = torch.ones(64, 4, 128, requires_grad=True)
    stream, _ = run_layers(layers, Stream((x,)), (None,) * len(layers), recompute=recompute)  # type: ignore[arg-type]
    stream.hidden.square().mean().backward()


def profiled(folder: Path, steps: str, *, first_step: int = 0, stop_after: int = NUM_STEPS) -> str:
    """Train steps first_step..stop_after-1 with the hook; what it said."""
    said = io.StringIO()
    phase = PhaseConfig(
        name="only",
        duration={"steps": NUM_STEPS},
        sequence_length=4,
        global_batch_size=1,
        learning_rate=LearningRateConfig(peak=1e-3),
    )
    timeline = Timeline((phase,), contiguous_lanes=False)
    hook = ProfileHook(
        ProfileConfig(steps=steps),
        run_dir=RunDir(folder),
        device=torch.device("cpu"),
        rank=0,
        first_step=first_step,
        console=Console(said),
    )
    for index in range(first_step, stop_after):
        hook.before_step()
        step({0: Product(128), 1: Product(128)})
        result = StepResult(torch.zeros(()), torch.zeros(()), torch.tensor(False))
        hook.after_step(Completed(index + 1, timeline.at(index), result, is_last=index + 1 == NUM_STEPS))
    if stop_after < NUM_STEPS:
        hook.on_stop(step=stop_after)
    return said.getvalue()


def spans(run: RunDir) -> set[str]:
    with gzip.open(run.profile_trace(0), "rt") as file:
        events = json.load(file)["traceEvents"]
    return {event["name"] for event in events if event.get("cat") == "user_annotation"}


@pytest.mark.parametrize(
    ("options", "traced"),
    [
        ({}, {2, 3, 4}),
        ({"first_step": 2}, {3, 4}),  # an attempt that goes on inside the range
        ({"stop_after": 3}, {2, 3}),  # one that is stopped inside it
    ],
)
def test_the_trace_holds_the_steps_asked_for_and_no_others(
    tmp_path: Path, options: dict[str, int], traced: set[int]
) -> None:
    said = profiled(tmp_path, "2..4", **options)
    found = spans(RunDir(tmp_path))
    assert {name for name in found if name.startswith("step")} == {f"step {number}" for number in traced}
    assert {"layers.0 Product", "layers.1 Product"} <= found
    assert f"profile of steps {min(traced)} to {max(traced)}: {RunDir(tmp_path).profile_table(0)}" in said


@pytest.mark.parametrize("options", [{"first_step": 4}, {"stop_after": 1}])
def test_an_attempt_outside_the_range_writes_nothing(tmp_path: Path, options: dict[str, int]) -> None:
    assert profiled(tmp_path, "2..4", **options) == ""
    assert not any(tmp_path.iterdir())


def test_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("in the way")
    assert "could not be written" in profiled(tmp_path, "1..1")


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_work_of_both_passes_belongs_to_its_layer(recompute: str) -> None:
    narrow, wide = Product(128), Product(128)
    wide.inside = nn.Sequential(*[nn.Linear(128, 128) for _ in range(30)])  # type: ignore[assignment]
    step({3: narrow, 7: wide}, recompute)  # the first pass is slow for reasons of its own
    least = {"layers.3 Product": [math.inf] * 2, "layers.7 Product": [math.inf] * 2}
    for _ in range(5):  # other work on the machine comes between now and then, not always
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            step({3: narrow, 7: wide}, recompute)
        found = milliseconds_by_layer(profiler.events(), kind="cpu")
        assert set(found) == {*least, OUTSIDE}
        in_all = sum(event.self_cpu_time_total for event in profiler.events()) / 1000
        assert sum(map(sum, found.values())) == pytest.approx(in_all)
        least = {layer: [*map(min, times, found[layer])] for layer, times in least.items()}
    for of_narrow, of_wide in zip(*least.values(), strict=True):
        assert of_wide > of_narrow > 0


def test_layers_leave_no_spans_where_nothing_is_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hierlm.parallel.recompute.record_function", None)
    step({0: Product(128)})


@pytest.mark.slow
def test_a_run_is_profiled_on_every_rank(tmp_path: Path, tiny_dataset: Path) -> None:
    arguments = [f"data.path={tiny_dataset}", "name=traced", "phases.0.duration.steps=4", "phases.0.sequence_length=32"]
    layout = ["parallel.data_parallel_degree=2", "parallel.zero_stage=1", "tracking.uri=none"]
    config, short = ROOT / "configs" / "tiny" / "hourglass.yaml", "phases.0.learning_rate.warmup.steps=0"
    done = hierlm("train", config, *arguments, *layout, "train.profile.steps=2..3", short, cwd=tmp_path)
    run = RunDir(tmp_path / "runs" / "traced")
    assert "profile of steps 2 to 3: runs/traced/profile/rank-0000.txt" in done.stdout
    assert {"step 2", "step 3"} <= spans(run)
    for rank in (0, 1):
        table = run.profile_table(rank).read_text()
        assert " Shorten " in table
        assert "aten::addmm" in table
