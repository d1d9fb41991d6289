"""`train.log_gradient_norms` puts the norm of every layer into the record, the tracker's metrics and the report."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.report.run_record import load_run
from hierlm.report.run_report import run_page
from tests.conftest import ROOT, hierlm

TINY = ROOT / "configs" / "tiny" / "transformer.yaml"
NAMES = [f"grad_norm.layers.{index:03d}" for index in range(5)]


def test_offloaded_gradients_are_refused_in_one_line() -> None:
    words = ["train.log_gradient_norms=true", "parallel.offload=optimizer", "parallel.zero_stage=1"]
    with pytest.raises(UserError, match=r"train\.log_gradient_norms: given true with parallel\.offload optimizer"):
        load_config(TINY, words)
    load_config(TINY, words[1:])


@pytest.mark.slow
def test_every_logged_step_of_a_run_has_them(tiny_dataset: Path, tmp_path: Path) -> None:
    words = ["phases.0.duration.steps=3", "phases.0.sequence_length=16", "train.log_every={steps: 2}"]
    phases = yaml.safe_load(TINY.read_text())["phases"]
    words += [f"data.path={tiny_dataset}", f"phases.0.learning_rate={json.dumps(phases[0]['learning_rate'])}"]
    words += ["phases.0.learning_rate.warmup.steps=1", "train.log_gradient_norms=true"]
    hierlm("train", TINY, *words, cwd=tmp_path)
    run = tmp_path / "runs" / "tiny-transformer"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if record.get("kind") == "train"]
    assert [record["step"] for record in steps] == [1, 2, 3]
    for record in steps:
        assert [name for name in record if name.startswith("grad_norm.")] == NAMES
        assert sum(record[name] ** 2 for name in NAMES) ** 0.5 == pytest.approx(record["grad_norm"], rel=1e-5)
    assert tracked(tmp_path) == {f"train/{name}": [record[name] for record in steps] for name in NAMES}
    page = run_page(load_run(run), balance=None)
    assert "gradient norm of each layer" in page and all(name.removeprefix("grad_norm.") in page for name in NAMES)


def tracked(folder: Path) -> dict[str, Any]:
    """What MLflow has of them."""
    from hierlm.tracking.mlflow import runs_at_tracker

    [run] = runs_at_tracker(f"sqlite:///{folder}/runs/mlflow.db", experiment="hierlm")
    train = [record for record in run.records if record["kind"] == "train"]
    return {f"train/{name}": [record[name] for record in train] for name in NAMES}
