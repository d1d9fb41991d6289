"""`python -m tests.chaos [--faults N] [--seed S] [--record]`: a campaign and its table; exit code 1 for a loss."""

import argparse
import os
import tempfile
import time
from pathlib import Path

from tests.benchmarks.__main__ import record
from tests.chaos.campaign import Campaign, small_disk
from tests.chaos.run import KINDS
from tests.conftest import prepare_tiny_dataset

OUTSIDE_TMP = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
"""One of the faults takes all room in /tmp."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--faults", metavar="N", type=int, default=200)
    parser.add_argument("--seed", metavar="S", type=int, default=1)
    parser.add_argument("--steps", metavar="N", type=int, default=300, help="of each run")
    parser.add_argument("--record", action="store_true", help="write the table into tests/benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="hierlm-chaos-", dir=OUTSIDE_TMP) as folder,
        small_disk(Path(folder)) as place,
    ):
        campaign = Campaign(
            place,
            dataset=prepare_tiny_dataset(Path(folder)),
            num_steps=arguments.steps,
            seed=arguments.seed,
            kinds=KINDS,
            say=lambda line: print(line, flush=True),
        )
        campaign.strike(arguments.faults)
    table = f"{campaign.summary()}\n{time.monotonic() - started:.0f} s, seed {arguments.seed}"
    print(f"\n{table}")
    if arguments.record:
        record("chaos", table)
    return 1 if campaign.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
