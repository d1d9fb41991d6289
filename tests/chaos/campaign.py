"""Faults on runs that are started again each time, until as many have struck as were asked for.

After every fault the newest good checkpoint is at least that of before; every run ends, with the weights, the
optimizer and the records of the run that nothing has disturbed.
"""

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.faults import FAULTS, Fault, why_not
from tests.chaos.run import Run

DISK_MEBIBYTES = 96
END_OF_RUN_SECONDS = 600.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """One line of the table."""

    run: str
    fault: str
    what: str
    exit_code: int
    good_before: int
    good_after: int
    seconds: float
    problem: str

    def line(self) -> str:
        return (
            f"{self.run:<8} {self.fault:<26} {self.exit_code:>4} {self.good_before:>5} -> {self.good_after:<5}"
            f"{self.seconds:6.1f} s  {self.problem or 'ok'} | {self.what}"
        )


class Campaign:
    """Runs of one config, one seed: they must all end alike."""

    def __init__(self, folder: Path, *, dataset: Path, num_steps: int, seed: int, say: Say) -> None:
        self._folder, self._dataset, self._num_steps = folder, dataset, num_steps
        self._draw, self._say = random.Random(seed), say
        self._num_runs = 0
        self.outcomes: list[Outcome] = []
        self.problems: list[str] = []
        self.skipped: dict[str, str] = {}

    def strike(self, num_faults: int, *, faults: Sequence[Fault] = FAULTS) -> None:
        """All faults in turn, and again in a drawn order, until enough have struck; then every run is finished."""
        possible = [fault for fault in faults if why_not(fault, self._folder) is None]
        self.skipped = {fault.__name__: str(why_not(fault, self._folder)) for fault in faults if fault not in possible}
        whole = self._whole()
        queue = list(possible)
        run = self._new_run()
        while len(self.outcomes) < num_faults:
            if not queue:
                queue = self._draw.sample(possible, len(possible))
            fault = queue.pop(0)
            if not self._struck(run, fault) and queue:
                queue.append(fault)  # in the next run, or later in this one
            if run.is_finished:
                self._compare(run, whole)
                run = self._new_run()
        self._finish(run, whole)

    def _struck(self, run: Run, fault: Fault) -> bool:
        before, started = max(run.good_steps(), default=0), time.monotonic()
        strike = fault(run, self._draw)
        if strike is None:
            return False
        after = max(run.good_steps(), default=0)
        problem = ""
        if strike.exit_code not in strike.expected:
            problem = f"exit code {strike.exit_code}, expected {' or '.join(map(str, strike.expected))}"
        elif after < before and not strike.costs_checkpoints:
            problem = f"the newest good checkpoint was step {before}"
        outcome = Outcome(
            run.name,
            fault.__name__,
            strike.what,
            strike.exit_code,
            before,
            after,
            time.monotonic() - started,
            problem,
        )
        self.outcomes.append(outcome)
        self._say(f"{len(self.outcomes):>3} {outcome.line()}")
        if problem:
            self.problems.append(outcome.line())
        return True

    def _new_run(self) -> Run:
        self._num_runs += 1  # not counted from the outcomes: a run may be over before anything strikes it
        return Run(self._folder, f"run-{self._num_runs}", dataset=self._dataset, num_steps=self._num_steps)

    def _whole(self) -> tuple[Any, list[dict[str, Any]]]:
        run = Run(self._folder, "whole", dataset=self._dataset, num_steps=self._num_steps)
        self._say("the run without faults")
        self._finish_attempt(run)
        return run.result()

    def _finish(self, run: Run, whole: tuple[Any, list[dict[str, Any]]]) -> None:
        self._finish_attempt(run)
        self._compare(run, whole)

    def _finish_attempt(self, run: Run) -> None:
        attempt = run.start()
        code = attempt.end(seconds=END_OF_RUN_SECONDS)
        if code != 0:
            self.problems.append(f"{run.name}: cannot go on, exit code {code}: {attempt.said[-600:]}")

    def _compare(self, run: Run, whole: tuple[Any, list[dict[str, Any]]]) -> None:
        if not run.is_finished:
            return
        digest, records = run.result()
        same = {"digest": digest == whole[0], "records": records == whole[1]}
        self._say(f"{run.name} is finished: " + ", ".join(f"{k} {'equal' if v else 'DIFFER'}" for k, v in same.items()))
        self.problems += [
            f"{run.name}: {name} differ from the run without faults" for name, equal in same.items() if not equal
        ]

    def summary(self) -> str:
        """How many of each, and what went wrong."""
        counts = Counter(outcome.fault for outcome in self.outcomes)
        lines = [f"{count:>4}  {fault}" for fault, count in counts.most_common()]
        lines += [f"   -  {fault}: skipped, {reason}" for fault, reason in self.skipped.items()]
        lines.append(f"{len(self.outcomes)} faults on {self._num_runs} runs, {len(self.problems)} problems")
        return "\n".join([*lines, *self.problems])


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own below the folder where that can be had (root, Linux), else a plain directory."""
    place = folder / "disk"
    place.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={DISK_MEBIBYTES}m", "tmpfs", str(place)]
    is_mounted = (
        os.geteuid() == 0 and subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    )
    try:
        yield place
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=False)
