"""`make versions`: distributed tests with the oldest and the newest releases allowed; the table is docs/versions.md."""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT, quiet_environment
from tests.versions.environment import Pair, pairs, python_with
from tests.versions.table import Outcome, outcome_of, write

CHOICE = (
    "tests/parallel/test_seams.py",
    "tests/parallel/test_stage_3_linear.py",
    "tests/parallel/test_universal.py",
    "tests/distributed/test_many_micro_batches.py",
    "tests/distributed/test_tied_over_stages.py",
    "tests/distributed/test_skipped_steps.py",
    "tests/parallel/test_engine.py",
)
"""Every engine, every ZeRO stage in both precisions, stages and slices, saving and loading on another layout."""


def main() -> int:
    """Exit code 1 where a test failed; what was run is in the table all the same."""
    parser = argparse.ArgumentParser(prog="python -m tests.versions")
    parser.add_argument("--only", choices=["oldest", "newest"], help="one pair; the other's row is left as it is")
    only = parser.parse_args().only
    named = dict(zip(("oldest", "newest"), pairs(), strict=True))
    wanted = list(dict.fromkeys(named.values() if only is None else [named[only]]))
    failed = 0
    for pair in wanted:
        outcome = try_out(pair)
        write([outcome], choice=CHOICE)
        failed += outcome.failed
    return int(failed > 0)


def try_out(pair: Pair) -> Outcome:
    """Run the choice; UserError in a test is a failure as any other."""
    print(f"{' '.join(pair.requirements)}: preparing", flush=True)
    python = python_with(pair)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hierlm-versions-") as folder:
        report = Path(folder) / "report.xml"
        _run(python, [*CHOICE, "-m", "not matrix", f"--junitxml={report}"])
        return outcome_of(report, python=python, minutes=(time.monotonic() - begun) / 60)


def _run(python: Path, arguments: Sequence[str]) -> None:
    # its bin comes first: `hierlm` there would be .venv's, so the tests chosen start their own processes
    environment = quiet_environment() | {"PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([str(python), "-m", "pytest", "-q", *arguments], cwd=ROOT, env=environment, check=False)


if __name__ == "__main__":
    raise SystemExit(main())
