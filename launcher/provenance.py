"""Where the numbers of a run come from: code version, packages, host, command line."""

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from data_pipeline.masking import masked
from hierlm.plugins import installed

SOURCE_ROOT = Path(__file__).resolve().parent.parent
MAX_DIFF_CHARACTERS = 1_000_000


def collect(command_line: Sequence[str]) -> dict[str, Any]:
    """One JSON object; git is null outside a checkout."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command_line": masked(shlex.join(command_line)),
        "working_directory": os.getcwd(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "git": git_state(SOURCE_ROOT),
        "plugins": installed(),
        "packages": dict(sorted((d.name, d.version) for d in distributions() if d.name)),
    }


def read(path: Path) -> dict[str, Any] | None:
    """What was written there; None where it can no longer be read, or is not what some version of this wrote."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    git, plugins = (found.get("git"), found.get("plugins")) if isinstance(found, dict) else ("", "")
    if not isinstance(git, dict | None) or not isinstance(plugins, dict | None):
        return None
    is_whole = all(isinstance(each, dict) and "sha256" in each for each in (plugins or {}).values())
    return found if is_whole and isinstance(found.get("resumes"), list) else None


def changed_since(first: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A later start of the same run: what is new each time, and else only what has changed."""
    always = ("time", "command_line", "host")
    return {key: value for key, value in now.items() if key in always or value != first.get(key)}


def code_change(first: dict[str, Any], now: dict[str, Any]) -> str | None:
    """One line when a run goes on with other code than it was started with."""
    before, after = first.get("git") or {}, now.get("git") or {}
    if before.get("sha") != after.get("sha"):
        return f"was started with code {_short(before)}, goes on with {_short(after)}"
    if before.get("diff") != after.get("diff"):
        return f"goes on with other uncommitted changes to code {_short(after)} than it was started with"
    kept, present = first.get("plugins") or {}, now.get("plugins") or {}
    changed = [name for name in present if name in kept and kept[name]["sha256"] != present[name]["sha256"]]
    return f"goes on with another version of the installed {', '.join(changed)}" if changed else None


def _short(git: dict[str, Any]) -> str:
    return str(git.get("sha") or "without a commit")[:12]


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit, uncommitted changes and untracked files of the checkout at `root`; None when there is none."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != root.resolve():
        return None
    sha, status = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain") or ""
    diff = (_git(root, "diff", "HEAD") or "") if sha else ""
    return {
        "sha": sha.strip() if sha else None,
        "dirty": bool(status.strip()),
        "diff": masked(diff[:MAX_DIFF_CHARACTERS]),
        "diff_truncated": len(diff) > MAX_DIFF_CHARACTERS,
        "untracked": [line[3:] for line in status.splitlines() if line.startswith("??")],
    }


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
