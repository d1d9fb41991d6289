"""Which checkpoints stay, and how the others go: never before a newer one is committed. Torch-free."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from hierlm.checkpoint.layout import CONVERTING, PARTIAL, REMOVED, REPLACED, UNIVERSAL, step_dir, steps_present
from hierlm.checkpoint.manifest import ManifestError, read_manifest


def steps_to_remove(valid: Sequence[int], *, newest: int, keep: int) -> list[int]:
    """Of the valid steps up to the one just committed, all but the newest `keep`.

    Later steps belong to a future this run has fallen back from: they neither count nor go.
    """
    past = sorted(step for step in valid if step <= newest)
    return past[:-keep]


def remove_older(checkpoints: Path, *, newest: int, keep: int) -> None:
    """Apply `steps_to_remove`; directories older than all that stay go too if they are no checkpoints."""
    present = steps_present(checkpoints)
    valid = [step for step in present if _is_valid(step_dir(checkpoints, step))]
    gone = set(steps_to_remove(valid, newest=newest, keep=keep))
    oldest_kept = min((step for step in valid if step not in gone), default=newest)
    for step in present:
        if step in gone or (step not in valid and step < oldest_kept):
            _remove(checkpoints, step)


def clear_leftovers(checkpoints: Path) -> None:
    """Remove what killed saves and removals have left: nothing that could be loaded."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    for suffix in (PARTIAL, REMOVED, CONVERTING):
        for step in steps_present(checkpoints, suffix=suffix):
            shutil.rmtree(step_dir(checkpoints, step, suffix=suffix))
    for step in steps_present(checkpoints, suffix=REPLACED):
        replaced = step_dir(checkpoints, step, suffix=REPLACED)
        if step_dir(checkpoints, step).exists():
            shutil.rmtree(replaced)
        else:  # killed between two renames: the older save of this step is still the one that counts
            replaced.rename(step_dir(checkpoints, step))


def _remove(checkpoints: Path, step: int) -> None:
    """Under another name first, so that a removal cut short never looks like a damaged checkpoint."""
    shutil.rmtree(step_dir(checkpoints, step, suffix=UNIVERSAL), ignore_errors=True)
    removed = step_dir(checkpoints, step, suffix=REMOVED)
    step_dir(checkpoints, step).rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _is_valid(directory: Path) -> bool:
    try:
        read_manifest(directory)
    except ManifestError:
        return False
    return True
