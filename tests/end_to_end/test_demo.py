"""`make demo`, cut short: both models, the comparison and its page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, hierlm, quiet_environment


@pytest.mark.slow
@pytest.mark.distributed
def test_the_demo_trains_both_models_and_writes_the_report(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {**quiet_environment(), "BIN": str(Path(sys.executable).parent), "SPLITS": "valid=0.005,test=0.005"}
    short = [
        "phases.0.duration.steps=12",
        "phases.0.sequence_length=128",
        "train.eval_rows=16",
        "model.hidden_dim=48",
        "phases.0.learning_rate.warmup.steps=2",
    ]
    command = ["bash", "configs/demo/demo.sh", *short, "checkpoint.every.steps=6", "train.log_every.steps=4"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=1500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "runs" / "demo-report.html").read_text()
    table = json.loads(hierlm("compare", "demo", "--json", cwd=tmp_path).stdout)
    for name in ("demo-transformer", "demo-hourglass"):
        assert name in done.stdout
        assert name in page
        assert name in json.dumps(table)
    assert os.path.exists(tmp_path / "runs" / "mlflow.db")
