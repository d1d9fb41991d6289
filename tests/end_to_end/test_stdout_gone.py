"""Training whose stdout has gone, or is on a full disk, goes on to its end and says so in console.log."""

import subprocess
from pathlib import Path

import pytest

from hierlm.run_dir import RunDir
from tests.conftest import ROOT, hierlm_path, quiet_environment

SETTINGS = (
    "model.num_layers=1 model.hidden_dim=16 model.num_heads=2 model.ffn_dim=32 phases.0.duration.steps=6 "
    "phases.0.learning_rate.warmup.steps=2 phases.0.sequence_length=32 train.log_every.steps=1 train.eval_rows=4 "
    "tracking.uri=none"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "num_processes"), [("2>&1 | head -n 1", 2), (">/dev/full 2>/dev/full", 1), (">&- 2>&-", 1)]
)
def test_training_goes_on_when_nobody_listens(
    where: str, num_processes: int, tiny_dataset: Path, tmp_path: Path
) -> None:
    config, layout = ROOT / "configs" / "tiny" / "transformer.yaml", f"parallel.data_parallel_degree={num_processes}"
    command = f"{hierlm_path()} train {config} name=heard data.path={tiny_dataset} {SETTINGS} {layout}"
    script = f"set -o pipefail; {{ {command}; echo $? >code; }} {where}"
    subprocess.run(["bash", "-c", script], cwd=tmp_path, env=quiet_environment(), check=False, timeout=900)
    run = RunDir(tmp_path / "runs" / "heard")
    said = run.console_log.read_text()
    assert (tmp_path / "code").read_text() == "0\n", said
    assert run.finished.exists() and (run.checkpoints / "step-00000006" / "manifest.json").exists()
    assert [f"step {n}/6" in said for n in range(1, 7)] == [True] * 6
    assert ("nothing is printed" in said) == ("&-" not in where)
