"""What may be written where: one writer at a time, never into a folder that holds something else."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.prepare import journal, selection
from data_pipeline.prepare.parts import SHARD_NUMBERS_PER_PART
from data_pipeline.prepare.shard_writer import PARTIAL_SUFFIX
from data_pipeline.tokenize.tokenizer import MODEL_FILES

_WRITTEN_FIRST = (*MODEL_FILES.values(), selection.FILE_NAME, journal.FILE_NAME)
_BEFORE_JOURNAL = {name + ending for name in _WRITTEN_FIRST for ending in ("", PARTIAL_SUFFIX)}
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network file systems have none


@contextmanager
def locked(folder: Path, *, shared: bool) -> Iterator[None]:
    """Make and hold the folder, with others or alone; DataError when it cannot be written or is held already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, os.strerror(13))
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"{folder}: the dataset cannot be written there ({error.strerror}); change --output") from None
    with _held(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, what=folder):
        yield


@contextmanager
def part_locked(path: Path) -> Iterator[None]:
    """Hold the journal of one part alone."""
    with _held(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), fcntl.LOCK_EX, what=path):
        yield


@contextmanager
def _held(descriptor: int, kind: int, *, what: Path) -> Iterator[None]:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataError(f"{what}: another preparation is writing there; wait for it or change --output") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        os.close(descriptor)


def require_unused(folder: Path, *, resume: bool) -> None:
    """DataError unless the folder is empty, or holds only what a killed attempt leaves before its journal."""
    there = {path.name for path in folder.iterdir()}
    if journal.FILE_NAME in there and not resume:
        raise DataError(f"{folder}: holds an unfinished preparation; add --resume to continue it")
    if there - _BEFORE_JOURNAL or (there and not resume):
        raise DataError(f"{folder}: not empty ({min(there)}, ...); choose another --output or empty it")


def differences(made: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Names of the options and inputs in which a dataset differs from what is asked for now."""
    return sorted(key for key in asked if made.get(key) != asked[key])


def without_places(signature: dict[str, Any]) -> dict[str, Any]:
    """What must agree where the input files have moved: how many and how large they are, not where."""
    inputs = [{key: value for key, value in group.items() if key != "given"} for group in signature["inputs"]]
    splits = {name: "a file" if isinstance(share, str) else share for name, share in signature["splits"].items()}
    return {**signature, "inputs": inputs, "splits": splits}


def remove_unnamed_shards(folder: Path, state: journal.PartState, *, part: int) -> None:
    """What a killed attempt left of a part's shards that it had not finished."""
    named = {folder / record.name for shards in state.shards.values() for record in shards}
    for path in folder.glob("*/shard-*"):
        number = int(path.name.removeprefix("shard-").partition(".")[0])
        if path not in named and number // SHARD_NUMBERS_PER_PART == part:
            path.unlink()
