"""Runs submitted to the throw-away Slurm, the way a user does it."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, hierlm, quiet_environment
from tests.slurm.cluster import TestCluster, wait_until

START_SECONDS = 120.0
"""From RUNNING to the first step: four processes import torch and DeepSpeed on two busy cores."""


@dataclass(frozen=True)
class Place:
    """A folder with a cluster file in it, where `hierlm` is called."""

    cluster: TestCluster
    folder: Path
    dataset: Path

    @property
    def brake(self) -> Path:
        """While this file is there, training steps are slow."""
        return self.folder / "brake"

    def hierlm(self, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command line, with Slurm's programs pointed at the cluster."""
        environment = {**quiet_environment(), "SLURM_CONF": self.cluster.environment["SLURM_CONF"]}
        return hierlm(*words, cwd=self.folder, environment=environment, check=check, timeout=1200)

    def site(self, **fields: Any) -> Path:
        """A cluster file: one CPU process per node, unless said otherwise."""
        profile = {
            "partition": "main",
            "processes_per_node": 1,
            "gpus_per_process": 0,
            "cpus_per_task": 1,
            "time_limit": "0:10:00",
            "signal_margin_seconds": 60,
            "environment": {
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu",
                "PYTHONPATH": str(ROOT / "tests" / "injected"),
                "HIERLM_TEST_BRAKE": str(self.brake),
                **fields.pop("environment", {}),
            },
            **fields,
        }
        path = self.folder / f"site-{len(list(self.folder.glob('site-*')))}.yaml"
        path.write_text(json.dumps(profile))  # JSON is YAML
        return path

    def submit(self, name: str, *words: object, **site: Any) -> "SubmittedRun":
        """`hierlm submit` of the tiny transformer; `words` are overrides and options."""
        config = ROOT / "configs" / "tiny" / "transformer.yaml"
        overrides = (f"name={name}", f"data.path={self.dataset}", "train.log_every.steps=1", *words)
        done = self.hierlm("submit", config, *overrides, "--cluster", self.site(**site), "--json")
        return SubmittedRun(self, self.folder / "runs" / name, json.loads(done.stdout)["job_id"])


@dataclass(frozen=True)
class SubmittedRun:
    """One run and the job it was submitted as."""

    place: Place
    path: Path
    job_id: str

    def status(self) -> dict[str, Any]:
        """`hierlm status RUN --json`."""
        return json.loads(self.place.hierlm("status", self.path, "--json").stdout)

    def log(self) -> str:
        """Everything its jobs have printed."""
        return "".join(path.read_text() for path in sorted(self.path.glob("logs/job-*.log")))

    def records(self, name: str) -> list[dict[str, Any]]:
        """`attempts`, `jobs` or `metrics`."""
        path = self.path / f"{name}.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def last_step(self) -> int:
        """Of metrics.jsonl: the last whose numbers are known."""
        trained = (record["step"] for record in self.records("metrics") if record["kind"] == "train")
        return max(trained, default=0)

    def wait_for_step(self, step: int, *, seconds: float = START_SECONDS) -> None:
        """Until the step is logged."""
        wait_until(lambda: self.last_step() >= step, seconds=seconds, what=self.log)

    def wait_for_start(self, number: int, *, seconds: float = START_SECONDS) -> None:
        """Until the run has begun its attempt of this number."""
        starts = lambda: sum(record["event"] == "start" for record in self.records("attempts"))  # noqa: E731
        wait_until(lambda: starts() >= number, seconds=seconds, what=self.log)

    def wait_for_end(self, *, seconds: float = START_SECONDS) -> str:
        """The job's final state in Slurm, requeues awaited."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        return self.place.cluster.wait_for_state(self.job_id, *ends, seconds=seconds)

    def digest(self) -> str:
        """Of the final weights."""
        return json.loads(self.place.hierlm("checkpoint", "digest", self.path, "--json").stdout)["weights_sha256"]
