"""What killed saves and removals, and attempts that live on after a newer one has begun, leave behind. Torch-free."""

import shutil
from contextlib import suppress
from pathlib import Path

from hierlm.checkpoint.converting import is_converting
from hierlm.checkpoint.layout import (
    CONVERTING,
    MANIFEST,
    PARTIAL,
    REMOVED,
    REPLACED,
    SWEPT,
    attempt_dir,
    entries,
    step_dir,
    steps_present,
)
from hierlm.durable import rename
from hierlm.lease import Fence, take_away


def take_over(checkpoints: Path, *, lease: Fence) -> None:
    """An attempt's first act, before it looks for the checkpoint to go on from (why: lease.py).

    What an earlier attempt was about to commit it can commit no more, and what it was about to delete is back.
    """
    for step, generation, path in entries(checkpoints, suffix=PARTIAL):
        if generation < lease.generation:
            with suppress(FileNotFoundError):  # committed, or given up, in this very moment
                rename(path, _free_name(checkpoints, step, generation))
    for step, _, path in entries(checkpoints, suffix=REMOVED):
        home = step_dir(checkpoints, step)
        if (path / MANIFEST).exists() and not home.exists():
            with suppress(FileNotFoundError):
                rename(path, home)


def clear_leftovers(checkpoints: Path, *, lease: Fence) -> None:
    """Remove all of it that could not be loaded anyway; before a save, when a newer attempt has not begun."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    take_over(checkpoints, lease=lease)
    take_away(checkpoints, generation=lease.generation + 1)  # of a pointer whose writer was killed, a former life's too
    own = [entry.path for entry in entries(checkpoints, suffix=PARTIAL) if entry.generation == lease.generation]
    unused = (SWEPT, REMOVED) if is_converting(checkpoints) else (SWEPT, REMOVED, CONVERTING)
    dead = [entry.path for suffix in unused for entry in entries(checkpoints, suffix=suffix)]
    for path in own:
        shutil.rmtree(path)
    for path in dead:
        shutil.rmtree(path, ignore_errors=True)  # an earlier attempt may still be writing there, or deleting it too
    for step in steps_present(checkpoints, suffix=REPLACED):
        replaced = step_dir(checkpoints, step, suffix=REPLACED)
        if step_dir(checkpoints, step).exists():
            shutil.rmtree(replaced)
        else:  # killed between two renames: the older save of this step is still the one that counts
            rename(replaced, step_dir(checkpoints, step))


def _free_name(checkpoints: Path, step: int, generation: int) -> Path:
    """Where to put a partial one; one of the same name can only be there if its writer began again after a sweep."""
    name = attempt_dir(checkpoints, step, suffix=SWEPT, generation=generation)
    shutil.rmtree(name, ignore_errors=True)
    return name
