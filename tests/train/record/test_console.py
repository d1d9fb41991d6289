"""The console of a run: its lines outlive the terminal they were printed on."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from hierlm.train.record.console import Console
from tests.test_outlets import closed_pipe, full_disk


@pytest.mark.parametrize("make", [closed_pipe, full_disk])
def test_a_console_that_has_gone_is_told_in_the_log_and_the_lines_stay(
    make: Callable[[], IO[str]], tmp_path: Path
) -> None:
    log = tmp_path / "console.log"
    console = Console(make(), copy_to=log)
    for step in range(3):
        console.say(f"step {step}")
    console.close()
    lines = log.read_text().splitlines()
    assert [line for line in lines if line.startswith("step")] == ["step 0", "step 1", "step 2"]
    (told,) = [line for line in lines if not line.startswith("step")]
    assert "nothing is printed" in told and "goes on" in told


def test_a_bar_on_a_terminal_that_is_closed_ends_nothing(tmp_path: Path) -> None:
    """The bar is drawn by a thread as well."""
    master, slave = os.openpty()
    terminal = os.fdopen(slave, "w", encoding="utf-8", buffering=1)
    console = Console(terminal, copy_to=tmp_path / "console.log")
    console.start_bar(total_steps=10, completed=0)
    console.say("before")
    os.close(master)
    for step in range(10):
        console.say(f"step {step}")
        console.advance_bar(completed=step, description="training")
    console.close()
    assert (tmp_path / "console.log").read_text().count("step ") == 10


def test_a_log_on_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    """What libraries print, tracebacks and what other programs write to descriptor 1 go there."""
    program = """
import os, sys, traceback
from hierlm.train.record.console import redirect_output
out, err = redirect_output("/dev/full")
print("x" * 99999, flush=True)
print("y", file=sys.stderr)
try:
    1 / 0
except ZeroDivisionError:
    traceback.print_exc()
print("still here", file=out)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "still here\n"
