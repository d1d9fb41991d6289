"""docs/versions.md: one row for each pair of releases, as it was last run."""

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "versions.md"

TEXT = """# Versions that were run

DeepSpeed promises none of the insides that are used here, nor does megatron-core: `hierlm/parallel/seams` lists them,
and a start that misses one says so. The ranges in `pyproject.toml` reach from the oldest to the newest release that the
tests below were run with, on CPUs over gloo; releases in between were not run. `make versions` makes an environment for
each pair from the package registry (both packages are its own, all others those of `.venv`), runs the tests and writes
this page.

{table}

Run each time, without what is marked `matrix`:

{choice}
"""

HEAD = ("DeepSpeed", "megatron-core", "torch", "Python", "date", "passed", "failed", "skipped", "minutes")
VERSIONS = """
import json, platform
from importlib.metadata import version
names = ("deepspeed", "megatron-core", "torch")
import deepspeed, megatron.core
assert deepspeed.__version__.split("+")[0] == version("deepspeed"), deepspeed.__file__
print(json.dumps([*map(version, names), platform.python_version()]))
"""


class Outcome(NamedTuple):
    """One row."""

    versions: tuple[str, ...]  # of the first four columns
    date: str
    passed: int
    failed: int  # errors too
    skipped: int
    minutes: int

    @property
    def cells(self) -> list[str]:
        return [*self.versions, self.date, *map(str, self[2:])]


def outcome_of(report: Path, *, python: Path, minutes: float) -> Outcome:
    """What pytest's report of a run says, with the versions that the interpreter really imports."""
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    tests, failures, errors, skipped = (int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    return Outcome(
        versions=_versions(python),
        date=datetime.now(UTC).date().isoformat(),
        passed=tests - failed - skipped,
        failed=failed,
        skipped=skipped,
        minutes=max(1, round(minutes)),
    )


def write(outcomes: Sequence[Outcome], *, choice: Sequence[str], page: Path = PAGE) -> None:
    """Put the rows in place of those of the same versions; others stay."""
    rows = {tuple(cells[:4]): cells for cells in (*rows_of(page), *(outcome.cells for outcome in outcomes))}
    lines = [_line(HEAD), _line(["---"] * len(HEAD)), *map(_line, sorted(rows.values()))]
    files = "\n".join(f"- `{file}`" for file in choice)
    page.write_text(TEXT.format(table="\n".join(lines), choice=files), encoding="utf-8")


def rows_of(page: Path = PAGE) -> list[list[str]]:
    """The cells of every row that is there."""
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:3].strip("| ").isdigit()]


def _versions(python: Path) -> tuple[str, ...]:
    done = subprocess.run([str(python), "-W", "ignore", "-c", VERSIONS], capture_output=True, text=True, check=True)
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
