"""Faults inside the processes of a run: system calls that fail, a clock that jumps, numbers that are none.

A small library stands between the processes and the C library (`injected.c`). It does what a plan says, a file that is
written while they run: so one attempt can meet many faults, each at the call where it strikes.
"""

import errno
import os
import shutil
import subprocess
from functools import lru_cache
from itertools import count
from pathlib import Path

HERE = Path(__file__).parent
CALLS = ("any", "create", "write", "fsync", "rename", "list", "open")
ERRORS = (errno.EIO, errno.ENOSPC, errno.ESTALE, errno.ENOENT)


@lru_cache(maxsize=1)
def compiler() -> str | None:
    """The system's C compiler."""
    return shutil.which("cc") or shutil.which("gcc")


def library(folder: Path) -> Path | None:
    """Built once in `folder`; None where there is no compiler, or it cannot make one."""
    made = folder / "injected.so"
    if not made.exists() and (found := compiler()) is not None:
        command = [found, "-shared", "-fPIC", "-O1", "-o", str(made), str(HERE / "injected.c"), "-ldl"]
        subprocess.run(command, capture_output=True, check=False)
    return made if made.exists() else None


class Plan:
    """What the processes of one run are to meet, now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = count(1)
        self._name = ""

    def environment(self) -> dict[str, str]:
        """With which an attempt listens to the plan."""
        made = library(self.path.parent)
        preload = {"LD_PRELOAD": str(made)} if made is not None else {}
        return {"HIERLM_CHAOS_PLAN": str(self.path), "PYTHONPATH": str(HERE.parent / "injected"), **preload}

    def errno(self, number: int, *, call: str, path: str, nth: int, is_done: bool = False) -> None:
        """The nth such call that one of the processes makes gets this error."""
        self._write("errno", call, path, nth, number, 1, "done" if is_done else "not")

    def clock(self, seconds: int) -> None:
        """The time of day is another."""
        self._write("clock", "any", "-", seconds, 0, 1, "not")

    def nan(self) -> None:
        """One process computes with NaN from its next step on."""
        self._write("nan", "any", "-", 1, 0, 1, "not")

    def struck(self) -> str:
        """What has struck: process, call and path; empty before."""
        told = Path(f"{self.path}.{self._name}.0")
        try:
            return told.read_text(encoding="utf-8", errors="replace").strip() if self._name else ""
        except FileNotFoundError:
            return ""

    def clear(self) -> None:
        """Nothing any more."""
        self.path.unlink(missing_ok=True)

    def _write(self, *words: object) -> None:
        self._name = f"f{next(self._numbers)}"
        draft = self.path.with_suffix(".draft")
        draft.write_text(" ".join(map(str, (self._name, *words))) + "\n", encoding="ascii")
        os.replace(draft, self.path)
