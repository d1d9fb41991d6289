"""A small run on two processes, its attempts, and what is known of it from outside."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from hierlm.checkpoint.find import list_checkpoints, verify
from hierlm.lease import holder
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from tests.commands import Command
from tests.conftest import ROOT, hierlm, quiet_environment

NUM_RANKS = 2
EVAL_EVERY = 20
SAVE_EVERY = 10
START_SECONDS = 180.0
"""From the command to the first step, on a machine with other work."""

END_SECONDS = 120.0
FIXED = ("kind", "step", "phase", "tokens_seen", "loss", "learning_rate", "grad_norm", "split")
"""Of the records: what may not depend on how the run got there."""


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


class Run:
    """`<folder>/runs/<name>`: two phases, with an evaluation and a save every few steps."""

    def __init__(self, folder: Path, name: str, *, dataset: Path, num_steps: int) -> None:
        self.folder, self.name, self.num_steps = folder, name, num_steps
        self.dir = RunDir(folder / "runs" / name)
        self._dataset = dataset

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
        config = ROOT / "configs" / "tiny" / "transformer.yaml"
        first = {"name": "first", "duration": {"steps": self.boundary}, "sequence_length": 32, "global_batch_size": 4}
        first["learning_rate"] = {"peak": 3e-3, "warmup": {"steps": 5}, "decay": "cosine", "final": 3e-4}
        second = {"name": "second", "duration": {"steps": self.num_steps - self.boundary}, "sequence_length": 48}
        sizes = ("hidden_dim=32", "num_heads=2", "ffn_dim=64", "dropout=0.1")
        settings = (
            f"name={self.name}",
            f"data.path={self._dataset}",
            f"phases={json.dumps([first, second])}",
            f"checkpoint.every.steps={SAVE_EVERY}",
            f"train.eval_every={{steps: {EVAL_EVERY}}}",
            "train.eval_rows=8",
            "train.log_every.steps=1",
            "parallel={data_parallel_degree: 2, zero_stage: 1, micro_batch_size: 1}",
            "tracking.uri=none",
        )
        return ["train", str(config), *(f"model.{size}" for size in sizes), *settings, *overrides]

    def start(self, *overrides: str) -> "Attempt":
        """`hierlm train` in the background."""
        return Attempt(self, self.command(*overrides))

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

    def __init__(self, run: Run, words: list[str]) -> None:
        self.run = run
        self.log = run.folder.parent / f"{run.name}-{time.monotonic_ns()}.log"  # not on the disk that gets full
        self.process = Command(words, cwd=run.folder, environment=quiet_environment(), log=self.log)

    @property
    def said(self) -> str:
        """Everything it has printed."""
        return self.log.read_text()

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
