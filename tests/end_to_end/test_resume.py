"""An interrupted run and one never interrupted are the same to the last bit, wherever the interruption fell."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Command
from tests.conftest import ROOT, hierlm, quiet_environment

STEPS = 30
SMALL = [
    "model.hidden_dim=32",
    "model.num_heads=2",
    "model.ffn_dim=64",
    "model.dropout=0.1",
    f"phases.0.duration.steps={STEPS}",
    "phases.0.sequence_length=64",
    "phases.0.global_batch_size=4",
    "checkpoint.every.steps=10",
    "train.log_every.steps=1",
    "train.eval_every={steps: 10}",
    "train.eval_rows=8",
    "parallel.data_parallel_degree=2",
    "parallel.zero_stage=1",
    "parallel.micro_batch_size=1",
    "tracking.uri=none",
]


def arguments(dataset: Path, name: str) -> list[str]:
    config = ROOT / "configs" / "tiny" / "hourglass.yaml"
    return ["train", str(config), f"data.path={dataset}", f"name={name}", *SMALL]


def records(run: Path) -> list[dict[str, Any]]:
    """What a run has written that must not depend on how it got there."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    fixed = ("kind", "step", "phase", "tokens_seen", "loss", "learning_rate", "grad_norm", "split", "bits_per_byte")
    numbers = [record for record in found if record["kind"] in ("train", "eval")]
    return [{key: record[key] for key in fixed if key in record} for record in numbers]


def digest(run: str, cwd: Path) -> Any:
    return json.loads(hierlm("checkpoint", "digest", f"runs/{run}", "--json", cwd=cwd).stdout)


@pytest.fixture(scope="module")
def uninterrupted(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    hierlm(*arguments(tiny_dataset, "whole"), cwd=folder)
    return folder


def started(dataset: Path, name: str, cwd: Path, *overrides: str) -> Command:
    words = [*arguments(dataset, name), *overrides]
    return Command(words, cwd=cwd, environment=quiet_environment(), in_one=True)


def wait_for_step(run: Path, step: int, *, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and any(r["step"] >= step for r in records(run)):
            return
        time.sleep(0.02)
    raise AssertionError(f"{run} did not reach step {step}")


def worker_ids(run: Path) -> list[int]:
    """The processes that train `run`: those that print into the logs of its ranks."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "fd" / "1").readlink().parent == run / "logs":
                found.append(int(process.name))
    return sorted(found)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.matrix)],  # which Slurm's tests send
    ids=lambda number: signal.Signals(number).name,
)
def test_a_stop_request_saves_and_the_same_command_goes_on(
    number: int, tiny_dataset: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    process = started(tiny_dataset, "cut", tmp_path)
    wait_for_step(tmp_path / "runs" / "cut", 13)
    process.send_signal(number)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 85, output
    again = hierlm(*arguments(tiny_dataset, "cut"), cwd=tmp_path)
    assert "resumed from" in again.stdout
    assert records(tmp_path / "runs" / "cut") == records(uninterrupted / "runs" / "whole")
    assert digest("cut", tmp_path) == digest("whole", uninterrupted)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("step", [12, *(pytest.param(step, marks=pytest.mark.matrix) for step in (7, 20))])
def test_a_killed_run_goes_on_from_its_newest_checkpoint(
    step: int, tiny_dataset: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    process = started(tiny_dataset, "killed", tmp_path)
    run = tmp_path / "runs" / "killed"
    wait_for_step(run, step)
    os.kill(worker_ids(run)[-1], signal.SIGKILL)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 1, output
    hierlm(*arguments(tiny_dataset, "killed"), cwd=tmp_path)
    assert records(run) == records(uninterrupted / "runs" / "whole")
    assert digest("killed", tmp_path) == digest("whole", uninterrupted)


@pytest.mark.slow
@pytest.mark.distributed
def test_the_run_directory_holds_what_the_contract_names(uninterrupted: Path) -> None:
    run = uninterrupted / "runs" / "whole"
    for name in ("config.yaml", "provenance.json", "attempts.jsonl", "metrics.jsonl", "FINISHED"):
        assert (run / name).exists(), name
    train = [r for r in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if r["kind"] == "train"]
    assert [r["step"] for r in train] == list(range(1, STEPS + 1))
    promised = {"step", "phase", "tokens_seen", "loss", "learning_rate", "grad_norm", "tokens_per_second"}
    promised |= {"step_seconds", "data_wait_fraction", "device_memory_bytes"}
    assert promised <= train[0].keys()
    assert train[-1]["loss"] < train[0]["loss"]
