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

from tests.chaos.catalogue import FAULTS, why_not
from tests.chaos.faults import Fault, Strike
from tests.chaos.run import KINDS, Kind, Run

DISK_MEBIBYTES = 96
END_OF_RUN_SECONDS = 600.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """One line of the table."""

    run: str
    kind: str
    fault: str
    what: str
    exit_code: int
    good_before: int
    good_after: int
    seconds: float
    problem: str

    def line(self) -> str:
        return (
            f"{self.run:<15} {self.fault:<26} {self.exit_code:>4} {self.good_before:>5} -> {self.good_after:<5}"
            f"{self.seconds:6.1f} s  {self.problem or 'ok'} | {self.what}"
        )


class Campaign:
    """Runs of a few kinds, one after the other; those of one kind and one seed must all end alike."""

    def __init__(
        self, folder: Path, *, dataset: Path, num_steps: int, seed: int, say: Say, kinds: Sequence[Kind] = KINDS[:1]
    ) -> None:
        self._folder, self._dataset, self._num_steps, self._kinds = folder, dataset, num_steps, kinds
        self._wholes: dict[Kind, tuple[Any, list[dict[str, Any]]]] = {}
        self._draw, self._say = random.Random(seed), say
        self._num_runs = 0
        self.outcomes: list[Outcome] = []
        self.problems: list[str] = []
        self.skipped: dict[str, str] = {}

    def strike(self, num_faults: int, *, faults: Sequence[Fault] = FAULTS) -> None:
        """All faults in turn, and again in a drawn order, until enough have struck; then every run is finished."""
        possible = [fault for fault in faults if why_not(fault, self._folder) is None]
        self.skipped = {fault.__name__: str(why_not(fault, self._folder)) for fault in faults if fault not in possible}
        queue = list(possible)
        run = self._new_run()
        while len(self.outcomes) < num_faults:
            if not queue:
                queue = self._draw.sample(possible, len(possible))
            fault = queue.pop(0)
            if not self._struck(run, fault) and queue:
                queue.append(fault)  # in the next run, or later in this one
            if run.is_finished:
                self._compare(run)
                run = self._new_run()
        self._finish(run)

    def _struck(self, run: Run, fault: Fault) -> bool:
        before, started = max(run.good_steps(), default=0), time.monotonic()
        strike = self._strike_of(run, fault)
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
            run.kind.name,
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

    def _strike_of(self, run: Run, fault: Fault) -> Strike | None:
        """One that cannot be ended or judged is a problem of its own, and the campaign goes on."""
        try:
            return fault(run, self._draw)
        except (subprocess.TimeoutExpired, AssertionError, OSError) as error:
            run.end_all()
            return Strike(f"{type(error).__name__}: {error}".partition("\n")[0], -1, (0,))

    def _new_run(self) -> Run:
        """Of the next kind; not counted from the outcomes: a run may be over before anything strikes it."""
        kind = self._kinds[self._num_runs % len(self._kinds)]
        self._num_runs += 1
        return self._run(f"{kind.name}-{self._num_runs}", kind)

    def _run(self, name: str, kind: Kind) -> Run:
        return Run(self._folder, name, dataset=self._dataset, num_steps=self._num_steps, kind=kind)

    def _whole(self, kind: Kind) -> tuple[Any, list[dict[str, Any]]]:
        """What the run of this kind comes to that meets no fault; made when it is asked for."""
        if kind not in self._wholes:
            run = self._run(f"{kind.name}-whole", kind)
            self._say(f"the {kind.name} run without faults")
            self._finish_attempt(run)
            self._wholes[kind] = run.result()
            run.remove()
        return self._wholes[kind]

    def _finish(self, run: Run) -> None:
        self._finish_attempt(run)
        self._compare(run)

    def _finish_attempt(self, run: Run) -> None:
        attempt = run.start()
        code = attempt.end(seconds=END_OF_RUN_SECONDS)
        if code != 0:
            self.problems.append(f"{run.name}: cannot go on, exit code {code}: {attempt.said[-600:]}")

    def _compare(self, run: Run) -> None:
        if not run.is_finished:
            return
        run.settle()
        whole = self._whole(run.kind)
        digest, records = run.result()
        same = {"digest": digest == whole[0], "records": records == whole[1]}
        self._say(f"{run.name} is finished: " + ", ".join(f"{k} {'equal' if v else 'DIFFER'}" for k, v in same.items()))
        wrong = [f"{run.name}: {name} differ from the run without faults" for name, equal in same.items() if not equal]
        self.problems += wrong
        if not wrong:
            run.remove()

    def summary(self) -> str:
        """How many of each on each kind of run, and what went wrong."""
        kinds = [kind.name for kind in self._kinds]
        counts = Counter((outcome.fault, outcome.kind) for outcome in self.outcomes)
        names = sorted({outcome.fault for outcome in self.outcomes})
        lines = [f"{'fault':<26}" + "".join(f"{kind:>9}" for kind in kinds)]
        lines += [f"{name:<26}" + "".join(f"{counts[name, kind] or '-':>9}" for kind in kinds) for name in names]
        lines.append(f"{'all':<26}" + "".join(f"{sum(o.kind == kind for o in self.outcomes):>9}" for kind in kinds))
        lines += [f"{fault}: skipped, {reason}" for fault, reason in self.skipped.items()]
        lost = sum("checkpoint" in outcome.problem for outcome in self.outcomes)
        wrong = len(self.problems) - lost
        lines.append(f"{len(self.outcomes)} struck on {self._num_runs} runs, {lost} lost, {wrong} wrong")
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
