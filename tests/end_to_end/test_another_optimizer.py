"""A run with another optimizer than AdamW: it says so, is made longer on another layout, and stays one run."""

import json
from pathlib import Path

import pytest
import yaml

from hierlm.run_dir import RunDir
from tests.conftest import ROOT, hierlm
from tests.end_to_end.attempts import attempt_elsewhere
from tests.end_to_end.test_another_run import SMALL

LION = ["optim={name: lion, weight_decay: 0.3}", "phases.0.learning_rate={peak: 1.0e-3, decay: wsd}"]


@pytest.mark.slow
def test_a_run_of_lion_goes_on_on_another_layout_and_not_with_another_optimizer(
    tiny_dataset: Path, tmp_path: Path
) -> None:
    config, data = ROOT / "configs" / "tiny" / "transformer.yaml", f"data.path={tiny_dataset}"
    hierlm("train", config, data, *SMALL, *LION, cwd=tmp_path)
    run = RunDir(tmp_path / "runs" / "one")
    manifest = json.loads((run.checkpoints / "step-00000005" / "manifest.json").read_text())
    assert manifest["optimizer"] == {"name": "lion", "states": ["exp_avg"], "counts": []}

    other = hierlm("train", config, data, *SMALL, "optim.name=sgd", *LION[1:], cwd=tmp_path, check=False)
    assert other.returncode == 2, other.stdout + other.stderr
    (line,) = [line for line in other.stderr.splitlines() if "optim." in line]
    assert 'optim.name: "lion" -> "sgd"' in line

    longer = ["phases.0.duration.steps=7", "parallel.data_parallel_degree=2", "parallel.zero_stage=2"]
    done = hierlm("train", config, data, *SMALL, *LION, *longer, cwd=tmp_path)
    assert "converting step 5" in done.stdout and "ZeRO-2" in done.stdout, done.stdout

    run.finished.unlink()  # as a job sees the run that was put back into the queue before its end
    edited = yaml.safe_load(run.config.read_text())
    run.config.write_text(yaml.safe_dump({**edited, "optim": {"name": "adamw"}}))
    ranks = attempt_elsewhere(run.path, num_ranks=2, log=tmp_path / "log")
    assert [rank.wait(timeout=600) for rank in ranks] == [2, 2]
    said = (tmp_path / "log").read_text()
    assert "holds the state of lion (exp_avg), not of adamw (exp_avg, exp_avg_sq, step): undo the change" in said, said
