"""Printing where nobody listens: a closed pipe and a full disk are said once and end nothing."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from hierlm import outlets


def closed_pipe() -> IO[str]:
    """Its reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", encoding="utf-8", buffering=1)


def full_disk() -> IO[str]:
    return open("/dev/full", "w", encoding="utf-8", buffering=1)


@pytest.fixture(params=[closed_pipe, full_disk])
def gone(request: pytest.FixtureRequest) -> Iterator[IO[str]]:
    make: Callable[[], IO[str]] = request.param
    stream = make()
    yield stream
    outlets.settle(stream)


def test_what_nobody_can_read_is_said_once_and_printing_goes_on(gone: IO[str]) -> None:
    losses: list[OSError] = []
    outlet = outlets.Outlet(gone, on_loss=losses.append)
    for _ in range(3000):  # more than any buffer holds
        print("a line", file=outlet, flush=True)
    (loss,) = losses
    assert loss.errno in (errno.EPIPE, errno.ENOSPC)


def test_what_is_read_arrives_whole_whatever_the_letters(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w", encoding="utf-8", errors="backslashreplace") as file:
        outlet = outlets.Outlet(file)
        assert print("ä \udcff", file=outlet, flush=True) is None
        assert outlet.fileno() == file.fileno() and not outlet.isatty()
    assert (tmp_path / "file").read_text(encoding="utf-8") == "ä \\udcff\n"


def test_a_settled_stream_flushes_without_an_error(gone: IO[str]) -> None:
    outlets.tell("lost", stream=gone)
    with pytest.raises(OSError):
        gone.flush()
    assert outlets.settle(gone) is not None
    gone.flush()
    assert outlets.settle(gone) is None


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_stood_in_for(closed: str, tmp_path: Path) -> None:
    """Else the first file that is opened takes their number, and is written into."""
    program = """
import os, subprocess, sys
from hierlm import outlets
outlets.stand_in_for_closed()
print("said")
print("complained", file=sys.stderr)
sys.stdout.flush()
assert [number for number in (0, 1, 2) if os.fstat(number)] == [0, 1, 2]
subprocess.run([sys.executable, "-c", "import os; [os.fstat(n) for n in (0, 1, 2)]"], check=True)
open(sys.argv[1], "w").write("well")
"""
    command = f'exec "$0" -c "$1" "$2" {closed}'
    subprocess.run(["bash", "-c", command, sys.executable, program, tmp_path / "end"], check=True, capture_output=True)
    assert (tmp_path / "end").read_text() == "well"
