"""Where checkpoints lie under `<run>/checkpoints`, and every name in there, once.

step-00000050/            a checkpoint, if its manifest is valid
    manifest.json
    engine/...            weights and optimizer as the engine wrote them, in the layout of the run
step-00000050.universal/  the same state converted for another layout; made again when missing
step-00000050.g7.converting/ being converted, by the holder of converting.lock if file systems have locks
step-00000060.g3.partial/ being written by the attempt of generation 3 (lease.py), or left by a save that was killed
step-00000060.g2.swept/   a partial one taken away from an earlier attempt: never a checkpoint
step-00000050.replaced/   an older save of the same step, until its successor is in place
step-00000040.g3.removed/ going: whole and brought back as long as it has its manifest, being deleted after that
latest                    the newest step ever committed: a witness, never trusted for loading
"""

import re
from pathlib import Path
from typing import NamedTuple

MANIFEST = "manifest.json"
ENGINE = "engine"
LATEST = "latest"

PARTIAL = ".partial"
SWEPT = ".swept"
REPLACED = ".replaced"
REMOVED = ".removed"
UNIVERSAL = ".universal"
CONVERTING = ".converting"

_NAME = re.compile(r"step-(\d{8,})(?:\.g(\d+))?(\.[a-z]+)?")


class Entry(NamedTuple):
    """A directory that belongs to a step; `generation` is that of the attempt in its name, 0 without one."""

    step: int
    generation: int
    path: Path


def step_name(step: int) -> str:
    """`step-00000050`: sorts by name as by number."""
    assert step >= 0
    return f"step-{step:08d}"


def step_dir(checkpoints: Path, step: int, *, suffix: str = "") -> Path:
    """The directory of the checkpoint of `step` completed optimizer steps; with a suffix, what stands beside it."""
    return checkpoints / (step_name(step) + suffix)


def attempt_dir(checkpoints: Path, step: int, *, suffix: str, generation: int) -> Path:
    """What stands beside the checkpoint of a step and is one attempt's own: no other one writes or renames it."""
    return checkpoints / f"{step_name(step)}.g{generation}{suffix}"


def entries(checkpoints: Path, *, suffix: str = "") -> list[Entry]:
    """All directories with this suffix by step; whether they are checkpoints is not looked at."""
    if not checkpoints.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in checkpoints.iterdir())
    found = [(match, path) for match, path in matches if match and (match[3] or "") == suffix]
    return sorted(Entry(int(match[1]), int(match[2] or 0), path) for match, path in found)


def steps_present(checkpoints: Path, *, suffix: str = "") -> list[int]:
    """Steps that have a directory with this suffix, ascending."""
    return sorted({entry.step for entry in entries(checkpoints, suffix=suffix)})
