"""`make bench`: the bench_*.py one after another, each in its own process; what they print goes to RESULTS.md too.

    python -m tests.benchmarks [NAME ...]

With names (costs, start, ...) only those run and the other sections of RESULTS.md stay as they are, as do that of the
GPU where there is none and that of published speeds where their table is not at hand. One that fails keeps no other
from running; the exit code says whether one did.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile

from tests.benchmarks.bench_gpu import NO_GPU
from tests.benchmarks.bench_published import NO_TABLE

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
PREFIX = "bench_"

RATIOS = ("training", "modern", "lmu", "activation_memory", "data", "threads", "plan", "published")
"""First in the file: what holds on other machines too."""

GPU = "gpu"
"""Last, under a heading of its own."""

_ERROR_LINES = 5
_FOLDERS = re.compile(r"(?:/[^\s/:]+)+/")  # of this machine


def main() -> None:
    """Run all, or those named."""
    known = ordered(script.stem.removeprefix(PREFIX) for script in HERE.glob(f"{PREFIX}*.py"))
    wanted = ordered(name.removeprefix(PREFIX) for name in sys.argv[1:]) or known
    if unknown := [name for name in wanted if name not in known]:
        print(f"tests.benchmarks: given {', '.join(unknown)}, allowed: {', '.join(known)}", file=sys.stderr)
        sys.exit(2)
    sections, failed = read_sections(RESULTS.read_text() if RESULTS.exists() else ""), []
    for name in wanted:
        text, is_well = run(name)
        if not (NO_GPU in text or NO_TABLE in text) or heading(name) not in sections:
            sections[heading(name)] = text
        failed += [] if is_well else [name]
        RESULTS.write_text(document(sections))
    if failed:
        print(f"not as promised: {', '.join(failed)}")
    sys.exit(int(bool(failed)))


def run(name: str) -> tuple[str, bool]:
    """(section, whether it ended with exit code 0); what the bench prints is passed on as it comes."""
    print(f"== {name}", flush=True)
    command, lines = [sys.executable, "-m", f"tests.benchmarks.{PREFIX}{name}"], []
    with TemporaryFile("w+", errors="replace") as errors:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=HERE.parents[1], env=environment
        ) as bench:
            assert bench.stdout is not None
            for line in bench.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if bench.returncode:
            errors.seek(0)
            said = [_FOLDERS.sub("", line) for line in errors.readlines()[-_ERROR_LINES:]]
            told = [f"exit code {bench.returncode}\n", *said]
            print(*told, sep="", flush=True)
            lines += told
    return f"{machine()}\n\n```\n{''.join(lines).rstrip()}\n```", bench.returncode == 0


def ordered(names: Iterable[str]) -> list[str]:
    """Ratios first, the GPU last, the rest by name."""
    places = {**{name: place for place, name in enumerate(RATIOS)}, GPU: len(RATIOS) + 1}
    return sorted(set(names), key=lambda name: (places.get(name, len(RATIOS)), name))


def heading(name: str) -> str:
    """Of its section."""
    return "GPU" if name == GPU else f"{PREFIX}{name}"


def read_sections(text: str) -> dict[str, str]:
    """Heading -> what stands below it."""
    parts = f"\n{text}".split("\n## ")[1:]
    return {head: body.strip() for head, _, body in (part.partition("\n") for part in parts)}


def document(sections: Mapping[str, str]) -> str:
    """The file: this machine, then the sections in their order, each with the day and the machine of its figures."""
    names = {"gpu" if head == "GPU" else head.removeprefix(PREFIX): body for head, body in sections.items()}
    parts = [f"# Benchmarks\n\n{machine()}\n", *(f"## {heading(name)}\n\n{names[name]}\n" for name in ordered(names))]
    return "\n".join(parts)


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
