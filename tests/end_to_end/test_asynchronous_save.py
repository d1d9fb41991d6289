"""A run that saves beside training: the numbers of one that does not, however it is ended; and proofs of loads."""

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from hierlm.checkpoint.layout import step_dir
from hierlm.checkpoint.manifest import read_manifest, write_manifest
from tests.conftest import ROOT, hierlm
from tests.end_to_end.test_resume import (  # noqa: F401
    arguments,
    digest,
    records,
    started,
    uninterrupted,
    wait_for_step,
    worker_ids,
)

SMALL = [
    "model.hidden_dim=32",
    "model.ffn_dim=64",
    "model.dropout=0.1",
    "model.memory_length=48",
    "phases.0.duration.steps=24",
    "phases.0.sequence_length=32",
    "phases.0.global_batch_size=4",
    "checkpoint.every.steps=8",
    "train.log_every.steps=1",
    "train.eval_rows=8",
    "parallel.data_parallel_degree=2",
    "parallel.zero_stage=1",
    "tracking.uri=none",
]
BESIDE = "checkpoint.asynchronous=true"
pytestmark = pytest.mark.distributed


def train(dataset: Path, name: str, *more: str, cwd: Path) -> str:
    config = ROOT / "configs" / "tiny" / "transformer_xl.yaml"
    return hierlm("train", str(config), f"data.path={dataset}", f"name={name}", *SMALL, *more, cwd=cwd).stdout


def saves(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "save"]


@pytest.fixture(scope="module")
def without(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run `without`, which stops training for its saves."""
    folder = tmp_path_factory.mktemp("saves")
    train(tiny_dataset, "without", cwd=folder)
    return folder


@pytest.mark.slow
def test_it_saves_the_same_and_trains_the_same(without: Path, tiny_dataset: Path) -> None:
    said = train(tiny_dataset, "beside", BESIDE, "checkpoint.keep=9", cwd=without)
    assert records(without / "runs" / "beside") == records(without / "runs" / "without")
    for step in (16, 24):  # what the other has kept
        digests = [
            hierlm("checkpoint", "digest", f"runs/{name}", "--checkpoint", step, "--json", cwd=without).stdout
            for name in ("without", "beside")
        ]
        assert digests[0] == digests[1]
    assert [record["step"] for record in saves(without / "runs" / "beside")] == [8, 16, 24]
    assert all(record["save_blocking_seconds"] > 0 for record in saves(without / "runs" / "beside"))
    assert re.search(r"checkpoint step 8 \| periodic \| .* s, training held up .* s \|", said)
    assert hierlm("checkpoint", "verify", "runs/beside", cwd=without).stdout.count("good") == 3


@pytest.mark.slow
def test_a_load_that_is_not_what_was_saved_ends_the_attempt_with_one_line(without: Path, tiny_dataset: Path) -> None:
    """The proof is altered here: what would have to be altered for a wrong load is our code."""
    run = without / "runs" / "without"
    newest = step_dir(run / "checkpoints", 24)
    manifest = read_manifest(newest)
    assert manifest.proof is not None
    write_manifest(newest, manifest.model_copy(update={"proof": (manifest.proof[0] + 0.01, *manifest.proof[1:])}))
    words = ("train", run / "config.yaml", "name=without", "phases.0.duration.steps=28")
    done = hierlm(*words, f"data.path={tiny_dataset}", cwd=without, check=False)
    assert done.returncode == 2, done
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and "the loaded model is not the one that was saved (token 0 costs" in told[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.matrix), signal.SIGKILL])
def test_it_can_be_ended_at_any_time(
    number: int,
    uninterrupted: Path,  # noqa: F811
    tiny_dataset: Path,
    tmp_path: Path,
) -> None:
    more = (BESIDE, "checkpoint.every.steps=1")  # nearly always one in flight
    process, run = started(tiny_dataset, "ended", tmp_path, *more), tmp_path / "runs" / "ended"
    wait_for_step(run, 12)
    for pid in worker_ids(run):
        os.kill(pid, number)
    process.communicate(timeout=900)
    assert hierlm("checkpoint", "verify", "runs/ended", cwd=tmp_path).stdout.count("good") >= 1
    hierlm(*arguments(tiny_dataset, "ended"), *more, cwd=tmp_path)
    assert digest("ended", tmp_path) == digest("whole", uninterrupted)
    assert records(run) == records(uninterrupted / "runs" / "whole")
