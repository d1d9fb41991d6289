"""Which checkpoints stay, and how the others go: never before a newer one is committed. Torch-free."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hierlm.checkpoint.layout import MANIFEST, REMOVED, UNIVERSAL, attempt_dir, step_dir, steps_present
from hierlm.checkpoint.manifest import ManifestError, Why, read_manifest
from hierlm.durable import rename
from hierlm.lease import UNFENCED, Fence

EMERGENCIES: tuple[Why, ...] = ("stop", "final")
"""Saved because training ends."""


def steps_to_remove(
    valid: Mapping[int, Why], *, newest: int, keep: int, keep_every: int | None = None
) -> Sequence[int]:
    """Of the valid steps up to the one just committed, with why they were saved, all that no class holds.

    For ever: the last of each phase, and multiples of `keep_every`. Till the next of its kind: the newest saved at the
    end or on a stop request. Of all others the newest `keep`. Later steps belong to a future this run has fallen back
    from: they neither count nor go.
    """
    past = sorted(step for step in valid if step <= newest)
    held = {step for step in past if valid[step] == "phase_boundary" or (keep_every and step % keep_every == 0)}
    held.update([step for step in past if valid[step] in EMERGENCIES][-1:])
    return [step for step in past if step not in held][:-keep]


def remove_older(
    checkpoints: Path, *, newest: int, keep: int, keep_every: int | None = None, lease: Fence = UNFENCED
) -> None:
    """Apply `steps_to_remove`; directories older than all that stay go too if they are no checkpoints.

    TakenOverError when another attempt has taken over: it decides what stays.
    """
    present = steps_present(checkpoints)
    found = {step: _why(step_dir(checkpoints, step)) for step in present}
    valid = {step: why for step, why in found.items() if why is not None}
    gone = set(steps_to_remove(valid, newest=newest, keep=keep, keep_every=keep_every))
    oldest_kept = min((step for step in valid if step not in gone), default=newest)
    for step in present:
        if step in gone or (step not in valid and step < oldest_kept):
            _remove(checkpoints, step, lease=lease)


def _remove(checkpoints: Path, step: int, *, lease: Fence) -> None:
    """Under another name first: what a newer attempt sees it keeps. Without its manifest nobody brings it back."""
    home = step_dir(checkpoints, step)
    removed = attempt_dir(checkpoints, step, suffix=REMOVED, generation=lease.generation)
    rename(home, removed)
    if not lease.is_current():
        rename(removed, home)
        lease.require_current()
    shutil.rmtree(step_dir(checkpoints, step, suffix=UNIVERSAL), ignore_errors=True)
    (removed / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(removed, ignore_errors=True)


def _why(directory: Path) -> Why | None:
    """None for what is no checkpoint, or none to go on from: it keeps no place from a good one."""
    try:
        manifest = read_manifest(directory)
        return manifest.why if manifest.is_finite else None
    except ManifestError:
        return None
