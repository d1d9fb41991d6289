"""`make bench`: every bench_*.py after another, each in its own process; what they print goes to RESULTS.md too."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"


def main() -> None:
    """Run all; the exit code says whether one failed."""
    sections, failed = [f"# Benchmarks\n\n{machine()}\n"], False
    for script in sorted(HERE.glob("bench_*.py")):
        print(f"== {script.stem}", flush=True)
        command = [sys.executable, "-m", f"tests.benchmarks.{script.stem}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE.parents[1])
        print(done.stdout, done.stderr if done.returncode else "", flush=True)
        failed |= done.returncode != 0
        sections.append(f"## {script.stem}\n\n```\n{done.stdout.rstrip()}\n```\n")
        RESULTS.write_text("\n".join(sections))
    sys.exit(int(failed))


def machine() -> str:
    """Date and hardware in one line: figures of another machine are others."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    return (
        f"{when}, {os.cpu_count()} x {models[0] if models else platform.machine()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
