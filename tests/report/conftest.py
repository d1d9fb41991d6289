"""Run directories as training leaves them, with curves that follow a formula."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from hierlm.report.summary import RunSummary, SplitResult, write_summary
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import MetricsFile

START = 1_700_000_000.0  # unix seconds
STEP_SECONDS = 0.5
MakeRun = Callable[..., RunDir]


def loss_at(step: int, *, floor: float) -> float:
    """Nats per token."""
    return floor + 4.0 * math.exp(-step / 20)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run(name, ...)` writes `<tmp_path>/runs/<name>`: 100 steps, two phases, logged every 5, evaluated every 25.

    `floor` is the final loss; without `summary` the run is still going; `model` is more config.
    """

    def make(
        name: str,
        *,
        arch: str = "hourglass",
        seed: int = 1,
        floor: float = 1.0,
        memory_bytes: int = 2**30,
        experiment: str = "demo",
        summary: bool = True,
        model: dict[str, Any] | None = None,
    ) -> RunDir:
        run_dir = RunDir(tmp_path / "runs" / name)
        run_dir.path.mkdir(parents=True)
        phases = [{"name": "short", "sequence_length": 64}, {"name": "long", "sequence_length": 128}]
        config = {
            "name": name,
            "seed": seed,
            "model": {"arch": arch, **(model or {})},
            "phases": phases,
            "tracking": {"uri": "none", "experiment": experiment},
        }
        run_dir.config.write_text(yaml.safe_dump(config, sort_keys=False))
        _write_metrics(run_dir, floor=floor, memory_bytes=memory_bytes)
        attempts = [("start", START - 10.0, {}), ("end", START + 101 * STEP_SECONDS + 6, {"why": "finished"})]
        run_dir.attempts.write_text("".join(attempt_line(event, time, **more) for event, time, more in attempts))
        if summary:
            _write_summary(run_dir, arch=arch, seed=seed, floor=floor, memory_bytes=memory_bytes)
        return run_dir

    return make


def attempt_line(event: str, time: float, **more: object) -> str:
    return json.dumps({"event": event, "time": datetime.fromtimestamp(time, UTC).isoformat(), **more}) + "\n"


def _write_metrics(run_dir: RunDir, *, floor: float, memory_bytes: int) -> None:
    file, now = MetricsFile(run_dir.metrics), START
    for step in range(1, 101):
        now += STEP_SECONDS
        loss, phase = loss_at(step, floor=floor), "short" if step <= 50 else "long"
        common = {"step": step, "phase": phase, "loss": loss, "bits_per_byte": loss / math.log(2), "time": now}
        if step % 5 == 0:
            measured = {"step_seconds": STEP_SECONDS, "data_wait_fraction": 0.1, "tokens_per_second": 2048.0}
            more = {"tokens_seen": step * 1024, "device_memory_bytes": memory_bytes, "learning_rate": 1e-3}
            file.write({"kind": "train", **common, **measured, **more, "grad_norm": 1.0})
        if step % 25 == 0:
            now += 1.0
            file.write({"kind": "eval", "split": "valid", **common, "perplexity": math.exp(loss), "eval_seconds": 1.0})
    file.close()


def _write_summary(run_dir: RunDir, *, arch: str, seed: int, floor: float, memory_bytes: int) -> None:
    loss = loss_at(100, floor=floor)
    write_summary(
        run_dir.summary,
        RunSummary(
            name=run_dir.name,
            arch=arch,
            status="finished",
            seed=seed,
            layout={"data_parallel_degree": 2},
            num_parameters=1_000_000,
            num_non_embedding_parameters=900_000,
            steps=100,
            tokens_seen=102_400,
            wall_seconds=70.0,
            device_seconds=140.0,
            flops_per_token=6e6,
            tokens_per_second=2048.0,
            peak_device_memory_bytes=memory_bytes,
            valid=SplitResult(loss=loss, perplexity=math.exp(loss), bits_per_byte=loss / math.log(2), step=100),
        ),
    )
