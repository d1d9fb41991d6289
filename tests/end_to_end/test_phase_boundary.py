"""A run killed around the boundary of two phases goes on as if nothing had happened: metrics, weights and memory.

Real training processes, real kills (SIGKILL), the whole of `hierlm.train.run`; only the launcher is left out, because a
fork server starts a rank in milliseconds.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from hierlm.checkpoint.digest import digest
from hierlm.checkpoint.layout import ENGINE, step_dir
from hierlm.checkpoint.recurrent import read_recurrent_states
from hierlm.config.load import load_config
from launcher.prepare_run import prepare_run
from tests.conftest import ROOT
from tests.distributed.spawn import RankFailedError, run_ranks

BOUNDARY, STEPS = 4, 7
PHASES = (
    f"[{{name: skip-retain, duration: {{steps: {BOUNDARY}}}, sequence_length: 16, global_batch_size: 4,"
    " learning_rate: {peak: 0.01, warmup: {steps: 2}},"
    " model: {layer_skip: uniform, skip_probability: 0.5, cross_head_probability: 0.5}},"
    f" {{name: cross-head, duration: {{steps: {STEPS - BOUNDARY}}}, model: {{layer_skip: 'off', memory_length: 16}}}}]"
)
SMALL = [
    "model.num_layers=3",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "model.memory_length=24",
    "model.dropout=0.1",
    f"phases={PHASES}",
    "checkpoint={every: {steps: 1}, keep: 3}",
    "train.log_every.steps=1",
    f"train.eval_every={{steps: {BOUNDARY}}}",
    "train.eval_rows=16",
    "parallel.zero_stage=1",
    "parallel.micro_batch_size=1",
    "tracking.uri=none",
]


class Layout(NamedTuple):
    data: int
    pipeline: int

    @property
    def overrides(self) -> list[str]:
        return [f"parallel.data_parallel_degree={self.data}", f"parallel.pipeline_parallel_degree={self.pipeline}"]


class Kill(NamedTuple):
    """The last rank ends itself: `before` the step with that many completed ones, or in its `evaluation` after it."""

    what: str
    step: int


KILLS = [
    Kill("before", BOUNDARY - 1),
    Kill("before", BOUNDARY),
    Kill("before", BOUNDARY + 1),
    Kill("evaluation", BOUNDARY),
]
ONE, FOUR = Layout(1, 1), Layout(2, 2)


def attempt(run_dir: str, kill: Kill | None) -> int:
    """On one rank: one attempt at the run, the last rank perhaps killed on the way."""
    from hierlm.run_dir import RunDir
    from hierlm.train.record.console import Console
    from hierlm.train.run import run

    if kill is not None and os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1):
        arm(kill)
    return run(RunDir(Path(run_dir)), console=Console(None))


def arm(kill: Kill) -> None:
    from hierlm.parallel.engine import Engine

    train_step, evaluate, completed = Engine.train_step, Engine.evaluate, 0

    def train_step_or_die(engine: Engine, *args: Any, moment: Any, **kwargs: Any) -> Any:
        nonlocal completed
        if kill == Kill("before", moment.step) and moment.learning_rate > 0:  # a rehearsal has none
            os.kill(os.getpid(), signal.SIGKILL)
        completed = moment.step + 1
        return train_step(engine, *args, moment=moment, **kwargs)

    def evaluate_or_die(engine: Engine, *args: Any, continues: bool = False, **kwargs: Any) -> Any:
        if kill == Kill("evaluation", completed) and continues:  # one of its passes is done
            os.kill(os.getpid(), signal.SIGKILL)
        return evaluate(engine, *args, continues=continues, **kwargs)

    Engine.train_step, Engine.evaluate = train_step_or_die, evaluate_or_die  # type: ignore[method-assign]


def prepared(dataset: Path, folder: Path, layout: Layout, *changes: str) -> Path:
    """A run directory no attempt was made in."""
    tiny = ROOT / "configs" / "tiny" / "skip_cross_head_xl.yaml"
    overrides = [*SMALL, *layout.overrides, *changes, f"data.path={dataset}", f"run_root={folder}", "name=run"]
    return prepare_run(load_config(tiny, overrides), command_line=[]).run_dir.path


def train(run: Path, layout: Layout, kill: Kill | None = None) -> None:
    run_ranks(attempt, layout.data * layout.pipeline, str(run), kill)


def numbers(run: Path) -> list[dict[str, Any]]:
    """Every logged step and evaluation, without clocks."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fixed = ("kind", "step", "phase", "tokens_seen", "loss", "learning_rate", "grad_norm", "tokens")
    found = [record for record in found if record["kind"] in ("train", "eval")]
    return [{key: record[key] for key in fixed if key in record} for record in found]


def memory(run: Path, step: int) -> dict[tuple[int, int, int], torch.Tensor]:
    """(global row, layer, tensor of its memory) -> what a checkpoint holds of it."""
    return {
        (first_row + row, layer, place): values
        for first_row, layers in read_recurrent_states(step_dir(run / "checkpoints", step))
        for layer, tensors in layers.items()
        for place, tensor in enumerate(tensors)
        for row, values in enumerate(tensor)
    }


def assert_same_run(found: Path, expected: Path) -> None:
    assert numbers(found) == numbers(expected)
    ends = [digest(step_dir(run / "checkpoints", STEPS) / ENGINE) for run in (found, expected)]
    assert ends[0] == ends[1]
    ours, theirs = memory(found, STEPS), memory(expected, STEPS)
    assert ours.keys() == theirs.keys()
    assert [key for key, values in ours.items() if not torch.equal(values, theirs[key])] == []


@pytest.fixture(scope="module")
def uninterrupted(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of a layout, made once."""
    known: dict[Layout, Path] = {}

    def of(layout: Layout) -> Path:
        if layout not in known:
            known[layout] = prepared(tiny_dataset, tmp_path_factory.mktemp("whole"), layout)
            train(known[layout], layout)
        return known[layout]

    return of


def cases() -> list[Any]:
    slow = (ONE, Kill("before", BOUNDARY - 1)), (FOUR, Kill("before", BOUNDARY)), (FOUR, Kill("evaluation", BOUNDARY))
    marks = {(ONE, Kill("evaluation", BOUNDARY)): []} | {case: [pytest.mark.slow] for case in slow}
    return [
        pytest.param(
            layout,
            kill,
            marks=marks.get((layout, kill), [pytest.mark.matrix]),
            id=f"dp{layout.data}-pp{layout.pipeline}-{kill.what}-{kill.step}",
        )
        for layout in (ONE, FOUR)
        for kill in KILLS
    ]


@pytest.mark.distributed
@pytest.mark.parametrize(("layout", "kill"), cases())
def test_a_run_killed_around_a_phase_boundary_goes_on_to_the_last_bit(
    layout: Layout, kill: Kill, tiny_dataset: Path, tmp_path: Path, uninterrupted: Any
) -> None:
    expected = uninterrupted(layout)
    run = prepared(tiny_dataset, tmp_path, layout)
    with pytest.raises(RankFailedError, match=r"died|Connection (reset|closed)"):  # or what another rank saw of it
        train(run, layout, kill)
    saved = sorted(path.name for path in (run / "checkpoints").glob("step-????????"))
    newest = kill.step - 1 if kill.what == "evaluation" else kill.step  # a boundary is evaluated before it is saved
    assert saved[-1] == step_dir(run / "checkpoints", newest).name
    train(run, layout)
    assert_same_run(run, expected)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_run_resumed_in_a_phase_of_another_batch_takes_its_micro_batches(tiny_dataset: Path, tmp_path: Path) -> None:
    runs = [prepared(tiny_dataset, tmp_path / name, ONE, "phases.1.global_batch_size=6") for name in ("whole", "cut")]
    train(runs[0], ONE)
    with pytest.raises(RankFailedError):
        train(runs[1], ONE, Kill("before", BOUNDARY + 1))
    train(runs[1], ONE)
    assert_same_run(runs[1], runs[0])


@pytest.mark.distributed
def test_the_run_has_a_memory_and_its_phases_differ(uninterrupted: Any) -> None:
    """Else the comparison above would compare little."""
    run = uninterrupted(ONE)
    held = memory(run, STEPS)
    assert {row for row, _, _ in held} == set(range(4))
    assert len({layer for _, layer, _ in held}) == 3  # every block
    assert {values.shape[0] for (_, _, place), values in held.items() if place == 0} == {16}  # phase 2's length
    assert all(values.any() for (_, _, place), values in held.items() if place == 0)
    phases = [record["phase"] for record in numbers(run) if record["kind"] == "train"]
    assert phases == ["skip-retain"] * BOUNDARY + ["cross-head"] * (STEPS - BOUNDARY)
