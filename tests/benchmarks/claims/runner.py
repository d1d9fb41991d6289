"""Runs of claims through `hierlm train`, a few at a time. A finished one is not run again; a killed one goes on."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hierlm.config.load import load_config
from hierlm.config.structure import differences
from hierlm.costs.flops import flops_per_token
from hierlm.errors import UserError
from hierlm.exit_codes import STOPPED
from hierlm.meeting import FILE_VARIABLE
from hierlm.report import formats
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from launcher.local import PR_SET_PDEATHSIG
from tests.benchmarks.claims.declared import Run
from tests.benchmarks.claims.results import run_path
from tests.conftest import ROOT, hierlm_path

AT_ONCE = 2
SAY_EVERY_SECONDS = 30.0
_POLL_SECONDS = 0.5
_FIRST_GUESS = 40e9  # FLOPs per second of one thread, until something has been measured


@dataclass
class Work:
    """A run still to be done, and how much it is."""

    run: Run
    path: Path
    flops_per_token: float
    num_tokens: int
    begun_with: int = 0  # tokens it had when it was started here

    def tokens_done(self) -> int:
        """By its records."""
        file = RunDir(self.path).metrics
        seen = [
            record["tokens_seen"] for record in (read_records(file) if file.exists() else []) if "tokens_seen" in record
        ]
        return int(seen[-1]) if seen else 0

    def flops_left(self) -> float:
        return self.flops_per_token * max(self.num_tokens - self.tokens_done(), 0)


def unfinished(runs: Sequence[Run]) -> list[Work]:
    """Runs without their marker; UserError when a run directory holds a run of other settings."""
    work, problems = [], []
    for run in runs:
        path, config = run_path(run), run.load()
        there = RunDir(path)
        if there.config.exists() and (changes := differences(load_config(there.config), config)):
            problems.append(f"{path}: holds a run of other settings ({changes[0]}); remove it to train it again")
        elif not there.finished.exists():
            tokens = sum(phase.num_steps * phase.tokens_per_step for phase in config.phases)
            cost = flops_per_token(config.model, config.phases[0].sequence_length)
            work.append(Work(run, path, cost, tokens))
    if problems:
        raise UserError(problems)
    return work


class Runner:
    """Starts runs as places become free."""

    def __init__(self, work: Sequence[Work], *, at_once: int, say: Callable[[str], None]) -> None:
        self._waiting, self._at_once, self._say = list(work), at_once, say
        self._total = len(work)
        self._active: list[tuple[Work, subprocess.Popen[bytes]]] = []
        self._done: list[Work] = []
        self._failed: list[str] = []
        self.stopped = False
        self._began = time.monotonic()

    def run(self) -> list[str]:
        """All of them to their ends, or until a signal; a line for each that did not finish."""
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        said = self._began
        try:
            while self._active or (self._waiting and not self.stopped):
                self._start_some()
                time.sleep(_POLL_SECONDS)
                self._collect()
                if time.monotonic() - said > SAY_EVERY_SECONDS:
                    said = time.monotonic()
                    self._say(self.progress())
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self._failed

    def progress(self) -> str:
        """How many are done, how far those running are, and about how long the rest takes."""
        at_work = ", ".join(
            f"{work.run.name} {formats.share(work.tokens_done() / work.num_tokens)}" for work, _ in self._active
        )
        return f"{len(self._done)} of {self._total} runs done; {at_work}; {formats.duration(self._seconds_left())} left"

    def _seconds_left(self) -> float:
        """At the rate so far, start-up and evaluation included."""
        touched = [*self._done, *(work for work, _ in self._active)]
        made = sum(work.flops_per_token * (work.tokens_done() - work.begun_with) for work in touched)
        elapsed = time.monotonic() - self._began
        enough = made / _FIRST_GUESS > 60
        rate = made / elapsed if enough else _FIRST_GUESS * self._at_once
        active = [work for work, _ in self._active]
        return sum(work.flops_left() for work in [*active, *self._waiting]) / rate

    def _start_some(self) -> None:
        while self._waiting and not self.stopped and len(self._active) < self._at_once:
            work = self._waiting.pop(0)
            work.begun_with = work.tokens_done()
            self._active.append((work, _start(work)))

    def _collect(self) -> None:
        for work, process in list(self._active):
            code = process.poll()
            if code is None:
                continue
            self._active.remove((work, process))
            if code == 0:
                self._done.append(work)
                self._say(f"finished {work.run.name}, {len(self._done)} of {self._total}")
                continue
            why = "stopped, the same command goes on" if code == STOPPED else f"failed with exit code {code}"
            self._failed.append(f"{work.run.name}: {why}; {console_file(work)}")
            self._say(self._failed[-1])

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Running ones save a checkpoint and stop; nothing new is started."""
        self.stopped = True
        for _, process in self._active:
            process.send_signal(signal.SIGTERM)


def console_file(work: Work) -> Path:
    """What `hierlm train` of the run has said."""
    return work.path.with_name(f"{work.path.name}.log")


def command(run: Run) -> list[str]:
    return [hierlm_path(), "train", str(run.config), *run.overrides]


def _start(work: Work) -> subprocess.Popen[bytes]:
    """One thread each, whatever the machine: time is compared."""
    log = console_file(work)
    log.parent.mkdir(parents=True, exist_ok=True)
    outside = {key: value for key, value in os.environ.items() if key not in _OF_A_GROUP}
    libc = ctypes.CDLL(None)  # loaded before the fork
    with log.open("ab") as output:
        return subprocess.Popen(
            command(work.run),
            cwd=ROOT,
            env={**outside, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches it through us only
            # killed with whatever started it, it would go on unseen: it saves and stops instead
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM)),  # noqa: PLW1509
        )


_OF_A_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", FILE_VARIABLE)


def first_of_each(runs: Sequence[Run]) -> Iterator[Run]:
    """One run an arm."""
    seen: set[str] = set()
    for run in runs:
        if run.arm not in seen:
            seen.add(run.arm)
            yield run
