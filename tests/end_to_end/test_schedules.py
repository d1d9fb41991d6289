"""The training schedules of the papers, shrunk: every phase of each runs, and hands over to the next."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hierlm.config.load import load_config
from hierlm.phases.timeline import Timeline
from launcher.prepare_run import prepare_run
from tests.conftest import ROOT
from tests.distributed.spawn import run_ranks

PAPERS = ROOT / "configs" / "papers"
STEPS = 2
"""Of each phase."""


class Schedule(NamedTuple):
    config: str
    tokens_divided_by: int
    rows_divided_by: int
    model: tuple[str, ...] = ()


SCHEDULES = {
    "plain": Schedule("transformer_xl/enwik8-12l", 64, 11, ("memory_length=8",)),
    "skip-retain": Schedule("skip_cross_head_xl/enwik8", 64, 11, ("memory_length=8",)),
    "skip-retain-adaptive": Schedule(
        "skip_cross_head_xl/wikitext103", 64, 8, ("memory_length=8", "cutoffs=[64]", "evaluation_memory_length=8")
    ),
    "staged-length": Schedule("shortformer/wikitext103-staged", 16, 12),
    "segment-curriculum": Schedule("recurrent_memory_transformer/curriculum", 31, 16, ("segment_length=4",)),
}
QUICK = {"skip-retain", "staged-length"}


def shrunk(schedule: Schedule, dataset: Path, folder: Path) -> Any:
    """The paper's config with a tiny model on bytes; phases keep what they change, lengths keep their ratios."""
    path = PAPERS / f"{schedule.config}.yaml"
    paper = load_config(path)
    words = ["vocab_size=256", "num_layers=2", "hidden_dim=16", "num_heads=2", "ffn_dim=32", *schedule.model]
    overrides = [f"model.{word}" for word in words]
    for index, phase in enumerate(paper.phases):
        at = f"phases.{index}"
        overrides += [
            f"{at}.duration.steps={STEPS}",
            f"{at}.sequence_length={phase.sequence_length // schedule.tokens_divided_by}",
            f"{at}.global_batch_size={phase.global_batch_size // schedule.rows_divided_by}",
        ]
        if phase.restarts_learning_rate:
            overrides.append(f"{at}.learning_rate.warmup.steps=1")
    overrides += ["parallel.data_parallel_degree=1", "checkpoint.every.steps=100", "train.log_every.steps=1"]
    overrides += ["train.eval_every={steps: 2}", "train.eval_rows=4", "tracking.uri=none"]
    return load_config(path, [*overrides, f"data={{path: '{dataset}'}}", f"run_root={folder}", "name=run"])


def attempt(run_dir: str) -> int:
    from hierlm.run_dir import RunDir
    from hierlm.train.record.console import Console
    from hierlm.train.run import run

    return run(RunDir(Path(run_dir)), console=Console(None))


@pytest.mark.distributed
@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in SCHEDULES])
def test_a_schedule_of_a_paper_runs_through_all_its_phases(name: str, tiny_dataset: Path, tmp_path: Path) -> None:
    config = shrunk(SCHEDULES[name], tiny_dataset, tmp_path)
    run_dir = prepare_run(config, command_line=[]).run_dir
    assert run_ranks(attempt, 1, str(run_dir.path)) == [0]
    records = [json.loads(line) for line in run_dir.metrics.read_text().splitlines()]
    steps = [record for record in records if record["kind"] == "train"]
    assert [r["phase"] for r in steps] == [phase.name for phase in config.phases for _ in range(STEPS)]
    assert {r["phase"] for r in records if r["kind"] == "eval"} == {phase.name for phase in config.phases}
    timeline = Timeline(config.phases)
    assert [r["learning_rate"] for r in steps] == [timeline.at(i).learning_rate for i in range(timeline.num_steps)]
    assert [r["tokens_seen"] for r in steps] == [timeline.tokens_after(i + 1) for i in range(timeline.num_steps)]
    assert all(0 < r["loss"] < 10 for r in steps), [r["loss"] for r in steps]


def test_the_schedules_change_what_their_papers_say() -> None:
    """By phase: the field that changes and its values; nothing else does."""

    def values(config: str, *names: str) -> list[tuple[Any, ...]]:
        phases = load_config(PAPERS / f"{config}.yaml").phases
        return [tuple(phase.model.get(n, getattr(phase, n, None)) for n in names) for phase in phases]

    assert values("skip_cross_head_xl/enwik8", "layer_skip", "sequence_length") == [("ramp", 512), ("off", 512)]
    staged = values("shortformer/wikitext103-staged", "sequence_length", "tokens_per_step", "optimizer_state")
    assert staged == [(128, 73_728, "keep"), (3072, 73_728, "keep")]
    segments = values("recurrent_memory_transformer/curriculum", "sequence_length", "bptt_depth")
    assert segments == [(124 * count, count - 1) for count in range(2, 11)]
    assert len(values("transformer_xl/enwik8-12l", "sequence_length")) == 1
