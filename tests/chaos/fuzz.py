"""`python -m tests.chaos.fuzz [KIND...]`: whatever a file of a stranger holds, it is taken or refused in a line.

The long form of the tests that try it, a kind after the other, each in a process with bounded memory; the table says
how many inputs each has seen. Exit code 1 when one of them ended in a traceback, ran something or touched a file that
is not its own, or when all together were fewer than promised.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.__main__ import record
from tests.conftest import ROOT, quiet_environment

PROMISED = 20_000


@dataclass(frozen=True)
class Kind:
    """Files of one kind, the tests that read them, and how many times their short form."""

    name: str
    tests: tuple[str, ...]
    factor: int = 1
    starts: bool = False
    """The tests compare with programs of the system."""


KINDS = (
    Kind(
        "config.yaml",
        (
            "tests/config/test_yaml_door.py::test_many_mutated_configs",
            "tests/config/test_fuzzed.py::test_many_more_configs_are",
        ),
    ),
    Kind("dataset.json", ("tests/data_pipeline/test_hostile_files.py::test_and_so_are_twenty_thousand[index]",)),
    Kind(
        "tokenizers",
        tuple(
            f"tests/data_pipeline/test_hostile_files.py::test_and_so_are_twenty_thousand[{kind}]"
            for kind in ("huggingface", "sentencepiece")
        ),
    ),
    Kind("shards", ("tests/data_pipeline/read/test_hostile_shard.py::test_any_header_is_read_or_refused",), 40),
    Kind(
        "archives",
        ("tests/data_pipeline/prepare/test_damaged_archives.py",),
        factor=10,
        starts=True,
    ),
    Kind("corpora", ("tests/data_pipeline/prepare/test_hostile_inputs.py",), factor=10),
    Kind("manifest.json", ("tests/checkpoint/test_manifest.py::test_any_value_of_any_field_is_read_or_refused",), 40),
    Kind("run-files", ("tests/launcher/test_damaged_files.py::test_no_damage_at_all_ends_in_a_traceback",)),
    Kind(
        "checkpoint-files",
        (
            "tests/checkpoint/test_tensor_file.py::test_of_many_more_bytes_too",
            "tests/checkpoint/test_wrong_content.py::test_and_so_are_many_more",
        ),
    ),
)


@dataclass(frozen=True)
class Found:
    """What came of one kind."""

    kind: str
    count: int
    seconds: float
    peak_mebibytes: int
    problem: str

    def line(self) -> str:
        return (
            f"{self.kind:<20} {self.count:>7,} inputs {self.seconds:>7.0f} s {self.peak_mebibytes:>6,} MiB  "
            f"{self.problem.splitlines()[0] if self.problem else 'ok'}"
        )


def tried(kind: Kind) -> Found:
    """Run the tests of one kind."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        environment = {**quiet_environment(), "HIERLM_FUZZ": str(kind.factor), "HIERLM_FUZZ_TOLD": str(told)}
        if kind.starts:
            environment["HIERLM_FUZZ_STARTS"] = "1"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.chaos.watched", "--timeout", "7200", *kind.tests]
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        answer = json.loads(told.read_text()) if told.exists() else {"count": 0, "seen": {}}
    problem = "" if process.returncode == 0 else f"exit code {process.returncode}\n{said[-3000:]}"
    if answer["seen"]:
        problem = f"touched: {', '.join(answer['seen'])}\n{problem}"
    return Found(kind.name, answer["count"], time.monotonic() - started, used.ru_maxrss // 1024, problem)


def main() -> int:
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fuzz")
    parser.add_argument("kinds", metavar="KIND", nargs="*", help=f"all of them by default: {', '.join(names)}")
    parser.add_argument("--record", action="store_true", help="write the table into tests/benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    wanted = arguments.kinds or names
    if unknown := set(wanted) - set(names):
        parser.error(f"given {', '.join(sorted(unknown))}, allowed: {', '.join(names)}")
    found = []
    for kind in KINDS:
        if kind.name in wanted:
            found.append(tried(kind))
            print(found[-1].line(), flush=True)
    total = sum(each.count for each in found)
    whole = f"{'all':<20} {total:>7,} inputs {sum(each.seconds for each in found):>7.0f} s"
    print(whole)
    if arguments.record:
        record("fuzz", "\n".join([*(each.line() for each in found), whole]))
    for each in found:
        if each.problem:
            print(f"\n{each.kind}: {each.problem}")
    is_short = wanted == names and total < PROMISED
    return 1 if is_short or any(each.problem for each in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
