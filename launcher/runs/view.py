"""Runs as a person looks at them: from their directories first, from Slurm second."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hierlm import metric_names, yaml12
from hierlm.errors import NoAnswerError, UserError
from hierlm.phases.config import PhaseConfig
from hierlm.phases.timeline import Timeline
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_attempts, read_new_records
from launcher.runs.state import Evidence, State, count_attempts, judge
from launcher.slurm import client
from launcher.slurm.array import SWEEP_SUFFIX, sweep_runs
from launcher.slurm.job_history import read_history

RUN_ROOT = Path("runs")
TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class RunStatus:
    """One run at one moment; what is not known yet is None."""

    run: str
    run_dir: Path
    state: State
    reason: str | None
    phase: str | None
    step: int | None
    num_steps: int | None
    loss: float | None  # nats per token, of the last logged step
    tokens_per_second: float | None
    eta_seconds: float | None  # of training alone, at the last logged speed; None unless running
    attempts: int
    job_ids: tuple[str, ...]  # in Slurm's queue now
    nodes: str | None

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {**self.__dict__, "run_dir": str(self.run_dir), "job_ids": list(self.job_ids)}


@dataclass(frozen=True)
class Cluster:
    """Slurm as seen from here: asked once, and only when a run needs it."""

    run_command: client.RunCommand = client.run_command
    problems: list[str] = field(default_factory=list)

    def queue(self) -> list[client.QueuedJob] | None:
        """This user's jobs; None where there is no Slurm or it does not answer, which is noted in `problems`."""
        if not client.is_installed():
            return None
        try:
            return client.queue(run_command=self.run_command)
        except UserError as error:
            self.problems.append(f"Slurm cannot be asked, its jobs are left out: {error.problems[0]}")
            return None

    def final_state(self, job_id: str) -> str | None:
        """How a job ended, if Slurm remembers it; NoAnswerError, noted in `problems`, when it does not answer."""
        try:
            return client.final_state(job_id, run_command=self.run_command)
        except NoAnswerError as error:
            self.problems.append(f"Slurm cannot be asked how job {job_id} ended: {error.problems[0]}")
            raise


def find_run(word: str | Path) -> RunDir:
    """The run of a directory or of a name under runs/; UserError with the nearest name."""
    for path in (Path(word), RUN_ROOT / word):
        if RunDir(path).config.is_file():
            return RunDir(Path(os.path.abspath(path)) if path.name in ("", "..") else path)
    there = [run.name for run in all_runs(RUN_ROOT)]
    near = difflib.get_close_matches(Path(word).name, there, n=1, cutoff=0.4)
    hint = f"; nearest: {near[0]}" if near else f"; {RUN_ROOT}/ holds {len(there)} runs"
    raise UserError(f"{word}: neither a run directory nor a run under {RUN_ROOT}/{hint}")


def find_runs(word: str | Path) -> list[RunDir]:
    """The one run of a directory or name, or all members of a sweep (`NAME` or `NAME.sweep`)."""
    try:
        return [find_run(word)]
    except UserError:
        for path in (Path(word), RUN_ROOT / word, Path(f"{word}{SWEEP_SUFFIX}"), RUN_ROOT / f"{word}{SWEEP_SUFFIX}"):
            members = sweep_runs(path)
            if members is not None:
                return members
        raise


def all_runs(root: Path) -> list[RunDir]:
    """Every run under a run root, by name."""
    return [RunDir(path.parent) for path in sorted(root.glob("*/config.yaml"))]


def statuses(runs: Sequence[RunDir], cluster: Cluster) -> list[RunStatus]:
    """The status of each run; the queue is asked once."""
    queue = cluster.queue()
    return [status_of(run, queue=queue, cluster=cluster) for run in runs]


def status_of(run_dir: RunDir, *, queue: Sequence[client.QueuedJob] | None, cluster: Cluster) -> RunStatus:
    """The status of one run, given the queue."""
    jobs = None if queue is None else jobs_of(run_dir, queue)
    evidence = Evidence(
        is_finished=run_dir.finished.exists(),
        attempts=read_attempts(run_dir.attempts),
        history=read_history(run_dir),
        queue=jobs,
        has_job_script=run_dir.job_script.exists(),
        final_state=cluster.final_state,
    )
    verdict = judge(evidence)
    timeline, last = _timeline(run_dir.config, run_dir.config.stat().st_mtime_ns), _last_step(run_dir)
    rate = last.get(metric_names.TOKENS_PER_SECOND)
    left = timeline.num_tokens - last.get(metric_names.TOKENS_SEEN, 0) if timeline else None
    return RunStatus(
        run=run_dir.name,
        run_dir=run_dir.path,
        state=verdict.state,
        reason=verdict.reason,
        phase=last.get(metric_names.PHASE),
        step=last.get(metric_names.STEP),
        num_steps=timeline.num_steps if timeline else None,
        loss=last.get(metric_names.LOSS),
        tokens_per_second=rate,
        eta_seconds=left / rate if left is not None and rate and verdict.state == "running" else None,
        attempts=count_attempts(evidence),
        job_ids=tuple(job.job_id for job in jobs or ()),
        nodes=next((job.nodes for job in jobs or () if job.nodes), None),
    )


def jobs_of(run_dir: RunDir, queue: Sequence[client.QueuedJob]) -> list[client.QueuedJob]:
    """The queued jobs of a run, started ones first: those it was submitted as, and any other that runs its script."""
    submitted = {str(event["job_id"]) for event in read_history(run_dir) if "job_id" in event}
    script = os.path.abspath(run_dir.job_script)
    mine = [j for j in queue if j.job_id in submitted or j.command == script or j.command.startswith(f"{script} ")]
    return sorted(mine, key=lambda job: job.is_waiting)


@cache
def _timeline(config: Path, _version: int) -> Timeline | None:
    """From the resolved config; None when it is not readable, which is not this room's business."""
    try:
        phases = yaml12.load(config.read_text(encoding="utf-8"))["phases"]
        return Timeline([PhaseConfig.model_validate(phase) for phase in phases])
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, RecursionError, yaml.YAMLError):
        return None


def _last_step(run_dir: RunDir) -> dict[str, Any]:
    """The newest record of a training step."""
    try:
        offset = max(0, run_dir.metrics.stat().st_size - TAIL_BYTES)
    except FileNotFoundError:
        return {}
    records, _ = read_new_records(run_dir.metrics, offset=offset)
    return next((record for record in reversed(records) if metric_names.stream(record) == metric_names.TRAIN), {})
