"""How long until something happens: `hierlm --help`, and from `hierlm train` to the end of its first step.

    python -m tests.benchmarks.bench_start [times]

Medians of warm starts (one before them is not counted), one process and one thread. A start is what a person waits for,
so the time is wall time; the processor time beside it tells what a busy machine adds. Exit code 1 where one is missed.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import NamedTuple

from tests.conftest import ROOT, hierlm_path, prepare_tiny_dataset, quiet_environment

TIMES = 5
LONGEST_HELP_SECONDS, LONGEST_START_SECONDS = 0.3, 12.0
FIRST_STEP = "first step after"
ONE_STEP = (
    "parallel.data_parallel_degree=1",
    "phases.0.duration.steps=1",
    "phases.0.learning_rate.warmup.steps=0",
    "train.eval_rows=8",
)


class Start(NamedTuple):
    """One start."""

    wall: float
    processor: float  # of the command to its end, children included
    split: dict[str, float]  # where the wall time went, as the run itself tells it


def start(arguments: Sequence[object], *, folder: Path, until: str = "") -> Start:
    """Run a command to its end; the wall time is that to its first line which begins with `until`, or to the end."""
    before, began, split = resource.getrusage(resource.RUSAGE_CHILDREN), perf_counter(), {}
    command = [hierlm_path(), *map(str, arguments)]
    process = subprocess.Popen(command, cwd=folder, env=quiet_environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    wall = None
    for line in process.stdout:
        if until and line.startswith(until):
            wall, split = perf_counter() - began, parts(line)
    if process.wait() != 0 or (until and wall is None):
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}, and no line `{until}...` before")
    wall = perf_counter() - began if wall is None else wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Start(wall, processor, split)


def parts(line: str) -> dict[str, float]:
    """`first step after 6.1 s: imports 2.9, process group 0.3` -> {"imports": 2.9, "process group": 0.3}."""
    told = line.partition(": ")[2]
    return {name: float(seconds) for name, seconds in re.findall(r"([a-z][a-z ]*) (\d+\.\d+)", told)}


def verdict(what: str, starts: Sequence[Start], *, bound: float) -> tuple[str, bool]:
    """A line, and whether the bound holds."""
    wall, processor = median(each.wall for each in starts), median(each.processor for each in starts)
    holds = wall <= bound
    line = f"{what:<52}{wall:>7.2f} s{processor:>8.2f} s  claimed <= {bound:.1f} s  {'holds' if holds else 'MISSED'}"
    names = dict.fromkeys(name for each in starts for name in each.split)
    split = [f"{name} {median(each.split.get(name, 0.0) for each in starts):.1f}" for name in names]
    return line + (f"\n  {', '.join(split)}" if split else ""), holds


def train(config: str, *, dataset: Path, folder: Path, times: int) -> list[Start]:
    """Starts of fresh runs, the first of them not counted."""
    path = ROOT / "configs" / f"{config}.yaml"
    name = config.replace("/", "-")
    return [
        start(
            ["train", path, f"name={name}-{number}", f"data.path={dataset}", *ONE_STEP], folder=folder, until=FIRST_STEP
        )
        for number in range(times + 1)
    ][1:]


def main() -> None:
    """Print a line each, as soon as it is known."""
    times = int(sys.argv[1]) if len(sys.argv) > 1 else TIMES
    print(f"median of {times}; load of the machine {os.getloadavg()[0]:.1f} of {os.cpu_count()}")
    print(f"{'':<52}{'wall':>7}  {'processor':>10}")
    with tempfile.TemporaryDirectory(prefix="bench-start-") as name:
        folder = Path(name)
        dataset = prepare_tiny_dataset(folder)
        helps = [start(["--help"], folder=folder) for _ in range(times + 1)][1:]
        line, all_hold = verdict("hierlm --help", helps, bound=LONGEST_HELP_SECONDS)
        print(line, flush=True)
        for config in ("tiny/transformer", "demo/transformer"):
            starts = train(config, dataset=dataset, folder=folder, times=times)
            line, holds = verdict(f"hierlm train configs/{config}.yaml", starts, bound=LONGEST_START_SECONDS)
            print(line, flush=True)
            all_hold &= holds
    sys.exit(int(not all_hold))


if __name__ == "__main__":
    main()
