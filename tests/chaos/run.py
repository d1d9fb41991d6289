"""A small run on a few processes, its attempts, and what is known of it from outside."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hierlm.checkpoint.find import list_checkpoints, verify
from hierlm.lease import holder
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from tests.chaos.injection import Plan
from tests.conftest import ROOT, hierlm, hierlm_path, quiet_environment

EVAL_EVERY = 20
SAVE_EVERY = 10
START_SECONDS = 180.0
"""From the command to the first step, on a machine with other work."""

END_SECONDS = 120.0
FIXED = ("kind", "step", "phase", "tokens_seen", "loss", "learning_rate", "grad_norm", "split")
"""Of the records: what may not depend on how the run got there."""


@dataclass(frozen=True)
class Kind:
    """A model and how it is spread over processes."""

    name: str
    arch: str
    num_ranks: int
    parallel: str
    model: tuple[str, ...] = ()


KINDS = (
    Kind("dp2", "transformer", 2, "{data_parallel_degree: 2, zero_stage: 1, micro_batch_size: 1}"),
    Kind(
        "dp2-pp2",
        "transformer",
        4,
        "{data_parallel_degree: 2, pipeline_parallel_degree: 2, zero_stage: 1, micro_batch_size: 1}",
    ),
    Kind("zero3", "transformer", 2, "{data_parallel_degree: 2, zero_stage: 3, micro_batch_size: 1}"),
    Kind(
        "memory",
        "transformer_xl",
        2,
        "{data_parallel_degree: 2, zero_stage: 1, micro_batch_size: 1}",
        model=("memory_length=32",),
    ),
)


def wait_until(condition: Callable[[], Any], *, seconds: float, or_when: Callable[[], Any] = lambda: False) -> bool:
    """Whether the condition came true; it is given up after the time, or when the other one comes true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        if or_when():
            return bool(condition())
        time.sleep(0.005)
    return False


def _lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


class Run:
    """`<folder>/runs/<name>`: two phases, with an evaluation and a save every few steps."""

    def __init__(self, folder: Path, name: str, *, dataset: Path, num_steps: int, kind: Kind = KINDS[0]) -> None:
        self.folder, self.name, self.num_steps, self.kind = folder, name, num_steps, kind
        self.dir = RunDir(folder / "runs" / name)
        self._dataset = dataset
        self.plan = Plan(folder.parent / f"{name}-plan")
        self._live: Attempt | None = None
        self._started: list[Attempt] = []

    @property
    def dataset(self) -> Path:
        """A copy of the data for this run alone, whose shards may come to harm."""
        own = self.folder.parent / f"{self.name}-data"
        if not own.exists():
            shutil.copytree(self._dataset, own)
        return own

    @property
    def boundary(self) -> int:
        """The last step of the first phase: no multiple of the other cadences."""
        return self.num_steps // 2 + 3

    @property
    def checkpoints(self) -> Path:
        return self.dir.checkpoints

    @property
    def is_finished(self) -> bool:
        return self.dir.finished.exists()

    def command(self, *overrides: str) -> list[str]:
        """What a user types."""
        config = ROOT / "configs" / "tiny" / f"{self.kind.arch}.yaml"
        first = {"name": "first", "duration": {"steps": self.boundary}, "sequence_length": 32, "global_batch_size": 4}
        first["learning_rate"] = {"peak": 3e-3, "warmup": {"steps": 5}, "decay": "cosine", "final": 3e-4}
        second = {"name": "second", "duration": {"steps": self.num_steps - self.boundary}, "sequence_length": 48}
        sizes = ("hidden_dim=32", "num_heads=2", "ffn_dim=64", "dropout=0.1", *self.kind.model)
        settings = (
            f"name={self.name}",
            f"data.path={self.dataset}",
            f"phases={json.dumps([first, second])}",
            f"checkpoint.every.steps={SAVE_EVERY}",
            f"train.eval_every={{steps: {EVAL_EVERY}}}",
            "train.eval_rows=8",
            "train.log_every.steps=1",
            "train.max_skipped_steps=1",
            f"parallel={self.kind.parallel}",
            "tracking.uri=none",
        )
        return ["train", str(config), *(f"model.{size}" for size in sizes), *settings, *overrides]

    def start(
        self,
        *overrides: str,
        environment: Mapping[str, str | None] | None = None,
        inside: Sequence[str] = (),
        prints: bool = True,
    ) -> "Attempt":
        """`hierlm train` in the background: the attempt that a fault left alive, if an ordinary one is wanted.

        `environment` (None: not there) beside the usual; `inside` another program; without `prints` its stdout goes.
        """
        if self._live is not None and not (overrides or environment or inside or not prints):
            live, self._live = self._live, None
            return live
        self.rest()
        command = [*inside, hierlm_path(), *self.command(*overrides)]
        self._started.append(Attempt(self, command, environment=environment or {}, prints=prints))
        return self._started[-1]

    def end_all(self) -> None:
        """Every attempt that was started here and lives, with its processes."""
        self._live = None
        for attempt in self._started:
            if not attempt.has_ended:
                attempt.kill_all()

    def remove(self) -> None:
        """The small disk is for the next one."""
        shutil.rmtree(self.dir.path)

    def settle(self) -> None:
        """Wait for the attempt that has finished the run."""
        live, self._live = self._live, None
        if live is not None:
            live.end()

    def rest(self) -> None:
        """Nobody trains the run."""
        live, self._live = self._live, None
        if live is not None:
            live.signal(signal.SIGTERM)
            live.end()

    def keep(self, attempt: "Attempt") -> None:
        """Let the next fault strike this attempt."""
        self._live = attempt

    def last_step(self) -> int:
        """Of metrics.jsonl."""
        return max((record["step"] for record in read_records(self.dir.metrics)), default=0)

    def good_steps(self) -> list[int]:
        """Checkpoints without damage, ascending; read until two looks agree, for a save may be under way."""
        while True:
            found = [listed.step for listed in list_checkpoints(self.checkpoints) if not verify(listed)]
            if found == [listed.step for listed in list_checkpoints(self.checkpoints) if not verify(listed)]:
                return found

    def result(self) -> tuple[Any, list[dict[str, Any]]]:
        """Digest of weights and optimizer, and all records of training and evaluation."""
        done = hierlm("checkpoint", "digest", str(self.dir.path), "--json", cwd=self.folder)
        records = [r for r in read_records(self.dir.metrics) if r["kind"] in ("train", "eval")]
        return json.loads(done.stdout), [{key: r[key] for key in FIXED if key in r} for r in records]


class Attempt:
    """One command that trains a run."""

    def __init__(
        self, run: Run, command: list[str], *, environment: Mapping[str, str | None], prints: bool = True
    ) -> None:
        self.run = run
        self.log = run.folder.parent / f"{run.name}-{time.monotonic_ns()}.log"  # not on the disk that gets full
        self._console, self._known = run.dir.console_log, len(_text(run.dir.console_log))
        wanted: dict[str, str | None] = {**quiet_environment(), **run.plan.environment(), **environment}
        given = {name: value for name, value in wanted.items() if value is not None}
        with self.log.open("w") as log:
            out = log if prints else subprocess.PIPE
            error = subprocess.STDOUT if prints else log
            self.process = subprocess.Popen(command, cwd=run.folder, env=given, stdout=out, stderr=error)

    @property
    def said(self) -> str:
        """Everything it has printed, and said in the run's own log where nobody listens."""
        return _text(self.log) + _text(self._console)[self._known :]

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def ranks(self) -> list[int]:
        """Its training processes."""
        try:
            return [child.pid for child in psutil.Process(self.process.pid).children() if child.is_running()]
        except psutil.NoSuchProcess:
            return []

    def wait_for(self, condition: Callable[[], Any], *, seconds: float = START_SECONDS) -> bool:
        """False when the attempt ends before."""
        return wait_until(condition, seconds=seconds, or_when=lambda: self.has_ended)

    def wait_for_step(self, step: int) -> bool:
        """Until this attempt, not an earlier one, has logged the step."""
        return self.wait_for(lambda: self.holds_the_run() and self.run.last_step() >= step)

    def holds_the_run(self) -> bool:
        """Whether its first process has the lease and trains."""
        claim = holder(self.run.dir.leases)
        return claim is not None and claim.pid in self.ranks() and "ready after" in self.said

    def signal(self, number: signal.Signals, *processes: int) -> None:
        """To these, or to the command itself."""
        for process in processes or (self.process.pid,):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                continue

    def kill_all(self) -> int:
        """The command and, with it, its processes; back when none of them is left."""
        ranks = self.ranks()
        self.signal(signal.SIGKILL)
        code = self.end()
        assert wait_until(lambda: not any(map(_lives, ranks)), seconds=END_SECONDS)
        return code

    def end(self, *, seconds: float = END_SECONDS) -> int:
        """Its exit code; one that does not end by itself is an error."""
        return self.process.wait(timeout=seconds)
