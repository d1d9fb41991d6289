"""Whether the threads that `hierlm train` gives its processes use all cores: tokens/s of whole runs, in turn.

    python -m tests.benchmarks.bench_threads [rounds]

The launcher shares the cores out among the processes of a machine. Beside it: as many processes with as many threads
each as torch would take, one per core, and one process with all cores. Every round runs all of them, shifted by one,
and the median of the rounds counts; wall time, for how cores share work is what is measured. Exit code 1 where the
launcher's sharing is the slower one; whether to have one process or several is the user's choice.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from hierlm.metric_names import STEP, TOKENS_PER_SECOND
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from tests.benchmarks.ratio import Claim
from tests.conftest import ROOT, hierlm_path, prepare_tiny_dataset, quiet_environment

ROUNDS = 5
CORES = len(os.sched_getaffinity(0))
NUM_STEPS, WARM_UP = 24, 4
ROWS = 4 * CORES


class Way(NamedTuple):
    """How a run's processes share the cores; without `threads` the launcher decides."""

    what: str
    num_processes: int
    threads: int | None = None


SHARED_OUT = Way("cores shared out", CORES)
CROWDED = Way("processes of as many threads as cores", CORES, CORES)
ALONE = Way("one process with all cores", 1)


def tokens_per_second(way: Way, *, name: str, dataset: Path, folder: Path) -> float:
    """Median over a run's steps."""
    environment = quiet_environment()
    del environment["OMP_NUM_THREADS"]
    if way.threads is not None:
        environment["OMP_NUM_THREADS"] = str(way.threads)
    overrides = {
        "name": name,
        "data.path": dataset,
        "model.hidden_dim": 256,
        "model.num_heads": 4,
        "model.ffn_dim": 1024,
        "phases.0.duration.steps": NUM_STEPS,
        "phases.0.sequence_length": 512,
        "phases.0.global_batch_size": ROWS,
        "parallel.data_parallel_degree": way.num_processes,
        "parallel.micro_batch_size": 4,
        "train.log_every.steps": 1,
        "checkpoint.every.steps": NUM_STEPS,
    }
    config = ROOT / "configs" / "tiny" / "transformer.yaml"
    command = [hierlm_path(), "train", str(config), *(f"{key}={value}" for key, value in overrides.items())]
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    records = read_records(RunDir(folder / "runs" / name).metrics)
    return median(r[TOKENS_PER_SECOND] for r in records if TOKENS_PER_SECOND in r and r[STEP] > WARM_UP)


def main() -> None:
    """Print the rates, then the ratios."""
    rounds, ways = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS, (SHARED_OUT, CROWDED, ALONE)
    print(f"{CORES} cores, median of {rounds} rounds, load of the machine {os.getloadavg()[0]:.1f}", flush=True)
    found: dict[Way, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(prefix="bench-threads-") as place:
        folder = Path(place)
        dataset = prepare_tiny_dataset(folder)
        for number in range(rounds):
            first = number % len(ways)
            for way in (*ways[first:], *ways[:first]):
                rate = tokens_per_second(way, name=f"run-{number}-{ways.index(way)}", dataset=dataset, folder=folder)
                found[way].append(rate)
    for way, rates in found.items():
        print(f"{way.what:<44}{median(rates):>10,.0f} tokens/s")
    claims = [
        Claim(f"{SHARED_OUT.what}, over {way.what}", _ratio(found[SHARED_OUT], found[way]), bound)
        for way, bound in ((CROWDED, 1.0), (ALONE, None))
    ]
    print(*(claim.line() for claim in claims), sep="\n")
    sys.exit(int(not all(claim.holds for claim in claims)))


def _ratio(ours: list[float], others: list[float]) -> float:
    return median(own / other for own, other in zip(ours, others, strict=True))


if __name__ == "__main__":
    main()
