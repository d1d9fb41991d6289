"""A fine-tune: another training's weights on other data, begun as they ended, gone on with when they have gone."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from tests.conftest import ROOT, hierlm
from tests.data_pipeline.making import prepared

CONFIG = ROOT / "configs" / "tiny" / "transformer.yaml"
SMALL = [
    "model.num_layers=1",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "phases.0.sequence_length=32",
    "phases.0.global_batch_size=4",
    "phases.0.learning_rate.warmup.steps=0",
    "train.eval_rows=4",
    "train.log_every.steps=1",
    "tracking.uri=none",
]
STEPS = 6


@pytest.fixture(scope="module")
def source(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run `first`, of two processes, in a folder with another dataset."""
    folder = tmp_path_factory.mktemp("tuning")
    layout = ["parallel.data_parallel_degree=2", "parallel.zero_stage=1"]
    words = ["name=first", f"data.path={tiny_dataset}", "phases.0.duration.steps=8"]
    hierlm("train", CONFIG, *SMALL, *words, *layout, cwd=folder)
    prepared(folder / "other", (ROOT / "README.md").read_bytes() * 4, splits="valid=0.1,test=0.1")
    return folder


def tune(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    settings = [*SMALL, f"phases.0.duration.steps={STEPS}", "data.path=other", "init_from.path=runs/first", *words]
    return hierlm("train", CONFIG, *settings, cwd=folder, check=check)


def records(folder: Path, name: str, kind: str) -> list[dict[str, Any]]:
    return [r for r in read_records(RunDir(folder / "runs" / name).metrics) if r["kind"] == kind]


@pytest.mark.slow
def test_a_fine_tune_begins_where_its_source_ended_and_goes_on_without_it(source: Path, tiny_dataset: Path) -> None:
    same = hierlm(
        *["train", CONFIG, *SMALL, "name=same", "phases.0.duration.steps=1", f"data.path={tiny_dataset}"],
        *["init_from.path=runs/first", "seed=5"],
        cwd=source,
    )
    assert "20 of 20 parameters" in same.stdout
    begun, ended = records(source, "same", "eval")[0], records(source, "first", "eval")[-1]
    assert begun["step"] == 0 and begun["loss"] == pytest.approx(ended["loss"], rel=1e-6)

    tune(source, "name=tuned", "checkpoint.every.steps=2", "run_root=whole")
    whole = RunDir(source / "whole" / "tuned")
    provenance = json.loads(whole.provenance.read_text())["init_from"]
    assert provenance["step"] == 8 and len(provenance["sha256"]) == 64
    steps = [record for record in read_records(whole.metrics) if record["kind"] == "train"]
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert steps[0]["tokens_seen"] == 4 * 32  # its own first step
    hierlm("checkpoint", "export", "runs/first", "--output", "exported", cwd=source)
    tune(source, "name=of-export", "init_from.path=exported", "phases.0.duration.steps=1")
    assert records(source, "of-export", "train")[0]["loss"] == steps[0]["loss"]

    shutil.copytree(whole.path, source / "runs" / "tuned")
    _forget_the_end(RunDir(source / "runs" / "tuned"), step=4)
    moved = (source / "runs" / "first").rename(source / "moved")
    try:
        refused = tune(source, "name=tuned", "init_from.path=moved", check=False)
        assert refused.returncode == 2 and 'init_from.path: "runs/first" -> "moved"' in refused.stderr, refused.stderr
        again = tune(source, "name=tuned")
        assert "resumed from" in again.stdout and "first weights" not in again.stdout
        assert [s["loss"] for s in records(source, "tuned", "train")] == [s["loss"] for s in steps]
        gone = tune(source, "name=new", "--json", check=False)
        assert gone.returncode == 2 and "where nothing is" in json.loads(gone.stdout)["error"]
        assert len(gone.stderr.splitlines()) == 1 and not (source / "runs" / "new").exists()
    finally:
        moved.rename(source / "runs" / "first")


def _forget_the_end(run: RunDir, *, step: int) -> None:
    """As if it had been killed after the save of a step."""
    run.finished.unlink()
    for later in run.checkpoints.glob("step-*"):
        if int(later.name.removeprefix("step-")) > step:
            shutil.rmtree(later)
    (run.checkpoints / "latest").write_text(f"step-{step:08d}\n")


@pytest.mark.slow
def test_weights_that_do_not_fit_leave_no_run_behind(source: Path) -> None:
    wrong = tune(source, "name=wrong", "model.hidden_dim=24", check=False)
    assert wrong.returncode == 2 and "of another shape" in wrong.stderr and "Traceback" not in wrong.stderr
    assert not (source / "runs" / "wrong").exists()
