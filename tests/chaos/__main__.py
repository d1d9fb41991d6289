"""`python -m tests.chaos [--faults N] [--seed S]`: the campaign, its table, and exit code 1 when anything was lost."""

import argparse
import tempfile
import time
from pathlib import Path

from tests.chaos.campaign import Campaign, small_disk
from tests.conftest import prepare_tiny_dataset


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--faults", metavar="N", type=int, default=56)
    parser.add_argument("--seed", metavar="S", type=int, default=1)
    parser.add_argument("--steps", metavar="N", type=int, default=400, help="of each run")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hierlm-chaos-") as folder, small_disk(Path(folder)) as place:
        campaign = Campaign(
            place,
            dataset=prepare_tiny_dataset(Path(folder)),
            num_steps=arguments.steps,
            seed=arguments.seed,
            say=lambda line: print(line, flush=True),
        )
        campaign.strike(arguments.faults)
    print(f"\n{campaign.summary()}\n{time.monotonic() - started:.0f} s, seed {arguments.seed}")
    return 1 if campaign.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
