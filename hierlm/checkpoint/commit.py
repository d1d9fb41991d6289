"""The commit protocol: a checkpoint is there whole or not at all, and a failed save costs nothing. Torch-free.

Write into `step-N.gG.partial`, hashed and synced; let all ranks agree; manifest; sync; rename; then the clean-up and
the pointer. Every rank calls `save_checkpoint`; what a rank cannot do is said to all before any of them goes on. G is
the generation of the attempt: a newer one takes the directory away before it looks for a checkpoint, so the rename is
either seen by it or fails (lease.py).

A rank touches its own files and nothing else: no directory is listed and no file of another rank is looked at, but by
the first rank, which gathers the records of all. So N ranks cost the file system N times what one costs.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from hierlm.checkpoint.layout import ENGINE, LATEST, PARTIAL, REPLACED, attempt_dir, step_dir, step_name
from hierlm.checkpoint.leftovers import clear_leftovers
from hierlm.checkpoint.manifest import Facts, Manifest, make_manifest, write_manifest
from hierlm.checkpoint.retention import remove_older
from hierlm.checkpoint.team import Team, TeamError
from hierlm.durable import FileRecord, rename, sync, sync_tree
from hierlm.errors import LostRunError
from hierlm.lease import UNFENCED, Fence, TakenOverError

Records = Mapping[str, FileRecord]
Write = Callable[[Path], Records]
"""Writes this rank's files below the directory, synced; returns the record of each (`FileWriter.records`): a file
without one is not part of the checkpoint."""


class SaveError(LostRunError):
    """The same one line on every rank; the checkpoints that were there are untouched.

    Only where training ends with it is the run lost: else it goes on, and saves again later.
    """


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint."""

    path: Path
    size_bytes: int
    seconds: float


def save_checkpoint(
    checkpoints: Path,
    *,
    facts: Facts,
    write: Write,
    team: Team,
    keep: int,
    keep_every: int | None = None,
    lease: Fence = UNFENCED,
) -> Saved:
    """Save the state of `facts.step` on all ranks together, then remove what `retention` does not hold.

    Raises SaveError on every rank if any of them fails, and TakenOverError on every rank if another attempt has begun.
    """
    started = perf_counter()
    partial = attempt_dir(checkpoints, facts.step, suffix=PARTIAL, generation=lease.generation)
    try:
        team.first_only(lambda: _begin(checkpoints, partial, lease=lease))
        written = team.collected(lambda: dict(write(partial)))
        files = {name: record for records in written for name, record in records.items()}
        took = perf_counter() - started

        def publish() -> int:
            _publish(checkpoints, partial, make_manifest(facts, files=files, save_seconds=took), lease=lease)
            with suppress(OSError):  # it is committed: a full disk must not deny the fact
                remove_older(checkpoints, newest=facts.step, keep=keep, keep_every=keep_every, lease=lease)
                lease.write(checkpoints / LATEST, step_name(facts.step) + "\n")
            return sum(record.size_bytes for record in files.values())

        size_bytes = team.first_only(publish)
    except TeamError as failure:
        if team.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        _stop_if_taken_over(team, lease)
        raise SaveError(
            f"the checkpoint of step {facts.step} was not saved ({failure}); earlier checkpoints are untouched"
        ) from None
    return Saved(step_dir(checkpoints, facts.step), size_bytes, perf_counter() - started)


def _begin(checkpoints: Path, partial: Path, *, lease: Fence) -> None:
    """An empty directory to write into, whatever a killed save has left behind."""
    lease.require_current()
    clear_leftovers(checkpoints, lease=lease)
    (partial / ENGINE).mkdir(parents=True)


def _publish(checkpoints: Path, partial: Path, manifest: Manifest, *, lease: Fence) -> None:
    write_manifest(partial, manifest)
    sync_tree(partial)
    _rename(partial, step_dir(checkpoints, manifest.step), lease=lease)
    sync(checkpoints)
    shutil.rmtree(step_dir(checkpoints, manifest.step, suffix=REPLACED), ignore_errors=True)


def _rename(partial: Path, final: Path, *, lease: Fence) -> None:
    """The moment of the commit. A checkpoint of the same step, fallen back from, makes room and returns on failure."""
    replaced = final.with_name(final.name + REPLACED)
    lease.require_current()
    displaces = final.exists()
    if displaces:
        rename(final, replaced)
    try:
        rename(partial, final)
    except OSError:
        if displaces:
            with suppress(OSError):
                rename(replaced, final)
        raise


def _stop_if_taken_over(team: Team, lease: Fence) -> None:
    """TakenOverError on every rank, if that is why the save failed; a lease that cannot be read is not the reason."""

    def successor() -> str | None:
        try:
            lease.require_current()
        except TakenOverError as error:
            return str(error)
        except OSError:
            return None
        return None

    taken_over = team.tell(successor() if team.is_first else None)
    if taken_over is not None:
        raise TakenOverError(taken_over)
