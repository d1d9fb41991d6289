"""The commit protocol: a checkpoint is there whole or not at all, and a failed save costs nothing. Torch-free.

Write into `step-N.partial`; hash; let all ranks agree; manifest; sync; rename; then the pointer and the clean-up.
Every rank calls `save_checkpoint`; what a rank cannot do is said to all before any of them goes on.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from hierlm.checkpoint.files import FileRecord, hash_and_sync, list_files, sync, sync_tree, write_synced
from hierlm.checkpoint.layout import ENGINE, LATEST, PARTIAL, REPLACED, step_dir, step_name
from hierlm.checkpoint.manifest import Facts, Manifest, make_manifest, write_manifest
from hierlm.checkpoint.retention import clear_leftovers, remove_older
from hierlm.checkpoint.team import Team, TeamError

Records = Mapping[str, FileRecord]
Write = Callable[[Path], Records]
"""Writes this rank's files below the directory; returns the records it already has (`FileWriter.records`) or none."""


class SaveError(RuntimeError):
    """The same one line on every rank; the checkpoints that were there are untouched."""


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint."""

    path: Path
    size_bytes: int
    seconds: float


def save_checkpoint(checkpoints: Path, *, facts: Facts, write: Write, team: Team, keep: int) -> Saved:
    """Save the state of `facts.step` on all ranks together, then keep the newest `keep` checkpoints.

    Raises SaveError on every rank if any of them fails.
    """
    started = perf_counter()
    partial = step_dir(checkpoints, facts.step, suffix=PARTIAL)
    try:
        team.first_only(lambda: begin(checkpoints, facts.step))
        files = _write_and_hash(partial, write=write, team=team)
        took = perf_counter() - started
        team.first_only(lambda: _publish(checkpoints, make_manifest(facts, files=files, save_seconds=took), keep=keep))
    except TeamError as failure:
        if team.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        raise SaveError(
            f"the checkpoint of step {facts.step} was not saved ({failure}); earlier checkpoints are untouched"
        ) from None
    size_bytes = sum(record.size_bytes for record in files.values())
    return Saved(step_dir(checkpoints, facts.step), size_bytes, perf_counter() - started)


def begin(checkpoints: Path, step: int) -> Path:
    """An empty `step-N.partial`, whatever a killed save has left behind."""
    clear_leftovers(checkpoints)
    partial = step_dir(checkpoints, step, suffix=PARTIAL)
    (partial / ENGINE).mkdir(parents=True)
    return partial


def _write_and_hash(partial: Path, *, write: Write, team: Team) -> dict[str, FileRecord]:
    """Records of all files of all ranks: those hashed while written, and the rest, shared out over the ranks."""

    def write_mine() -> tuple[dict[str, FileRecord], list[str]]:
        records = dict(write(partial))
        return records, list_files(partial)  # on a network file system one rank may not see another's new files yet

    written = team.together(write_mine)
    files = {name: record for records, _ in written for name, record in records.items()}
    unhashed = sorted({name for _, seen in written for name in seen} - files.keys())
    mine = team.share(unhashed)
    for records in team.together(lambda: hash_and_sync(partial, mine)):
        files.update(records)
    return files


def _publish(checkpoints: Path, manifest: Manifest, *, keep: int) -> None:
    partial = step_dir(checkpoints, manifest.step, suffix=PARTIAL)
    final = step_dir(checkpoints, manifest.step)
    replaced = step_dir(checkpoints, manifest.step, suffix=REPLACED)
    write_manifest(partial, manifest)
    sync_tree(partial)
    if final.exists():  # the same step again, after falling back from a damaged one
        final.rename(replaced)
    partial.rename(final)
    sync(checkpoints)
    with suppress(OSError):  # it is committed: what follows only tidies, and a full disk must not deny the fact
        shutil.rmtree(replaced, ignore_errors=True)
        remove_older(checkpoints, newest=manifest.step, keep=keep)
        write_synced(checkpoints / LATEST, step_name(manifest.step) + "\n")
