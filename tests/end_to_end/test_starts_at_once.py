"""Runs started at the same moment on one machine do not take each other's meeting point."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, hierlm_path, quiet_environment

pytestmark = pytest.mark.distributed

NUM_PAIRS = 50
PAIRS_AT_ONCE = 2
SMALL = [
    "model.num_layers=1",
    "model.hidden_dim=16",
    "model.num_heads=2",
    "model.ffn_dim=32",
    "phases.0.duration.steps=3",
    "phases.0.learning_rate.warmup.steps=0",
    "phases.0.sequence_length=16",
    "phases.0.global_batch_size=2",
    "parallel.data_parallel_degree=2",
    "parallel.micro_batch_size=1",
    "train.eval_rows=2",
    "tracking.uri=none",
]


def failures(names: list[str], *, dataset: Path, cwd: Path) -> list[str]:
    """What those runs have said that did not finish; all are started before the first is waited for."""
    config = ROOT / "configs" / "tiny" / "transformer.yaml"
    words = [hierlm_path(), "train", str(config), f"data.path={dataset}", *SMALL]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    runs = [subprocess.Popen([*words, f"name={n}"], cwd=cwd, env=quiet_environment(), **both) for n in names]
    said = [run.communicate(timeout=900)[0] for run in runs]
    return [f"{name}: {output}" for name, run, output in zip(names, runs, said, strict=True) if run.returncode]


@pytest.mark.slow
def test_two_runs_started_at_once_both_finish(tiny_dataset: Path, tmp_path: Path) -> None:
    assert failures(["one", "other"], dataset=tiny_dataset, cwd=tmp_path) == []
    left = {path.name for name in ("one", "other") for path in (tmp_path / "runs" / name).iterdir()}
    assert not any("meeting" in name for name in left), left


@pytest.mark.matrix
@pytest.mark.timeout(3600)
def test_fifty_pairs_started_at_once_all_finish(tiny_dataset: Path, tmp_path: Path) -> None:
    failed: list[str] = []
    for first in range(0, NUM_PAIRS, PAIRS_AT_ONCE):
        pairs = range(first, min(first + PAIRS_AT_ONCE, NUM_PAIRS))
        names = [f"{which}-{pair}" for pair in pairs for which in ("one", "other")]
        failed += failures(names, dataset=tiny_dataset, cwd=tmp_path)
    assert failed == []
