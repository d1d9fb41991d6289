"""Where checkpoints lie under `<run>/checkpoints`, and every name in there, once.

step-00000050/            a checkpoint, if its manifest is valid
    manifest.json
    engine/...            weights and optimizer as the engine wrote them, in the layout of the run
step-00000050.universal/  the same state converted for another layout; made again when missing
step-00000060.partial/    being written, or left by a save that was killed
step-00000050.replaced/   an older save of the same step, until its successor is in place
step-00000040.removed/    being deleted
latest                    the newest step ever committed: a witness, never trusted for loading
"""

import re
from pathlib import Path

MANIFEST = "manifest.json"
ENGINE = "engine"
LATEST = "latest"

PARTIAL = ".partial"
REPLACED = ".replaced"
REMOVED = ".removed"
UNIVERSAL = ".universal"
CONVERTING = ".converting"

_NAME = re.compile(r"step-(\d{8,})(\.[a-z]+)?")


def step_name(step: int) -> str:
    """`step-00000050`: sorts by name as by number."""
    assert step >= 0
    return f"step-{step:08d}"


def step_dir(checkpoints: Path, step: int, *, suffix: str = "") -> Path:
    """The directory of the checkpoint of `step` completed optimizer steps; with a suffix, what stands beside it."""
    return checkpoints / (step_name(step) + suffix)


def steps_present(checkpoints: Path, *, suffix: str = "") -> list[int]:
    """Steps that have a directory with this suffix, ascending; whether they are checkpoints is not looked at."""
    if not checkpoints.is_dir():
        return []
    matches = (_NAME.fullmatch(path.name) for path in checkpoints.iterdir())
    return sorted(int(match[1]) for match in matches if match and (match[2] or "") == suffix)
