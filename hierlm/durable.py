"""Files of a checkpoint: hashed while they are written, synced, and hashed again to verify. Torch-free."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

from data_pipeline.names import Count, Sha256
from data_pipeline.renaming import rename
from hierlm.strict import Strict

__all__ = ["FileRecord", "FileWriter", "damage", "hash_file", "rename", "set_aside", "sync", "sync_tree",
           "write_synced", "write_through"]  # fmt: skip

_CHUNK_BYTES = 8 << 20
_PIECE_BYTES = 32 << 20
_HASH_BESIDE_BYTES = 1 << 20  # below this, handing a block to another thread costs more than it saves
_NUM_THREADS = min(8, os.cpu_count() or 1)


class FileRecord(Strict):
    """What a file must be."""

    size_bytes: Count
    sha256: Sha256


class FileWriter:
    """Opens files below a root for writing and keeps the record of each, taken from memory, not from the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: dict[str, FileRecord] = {}

    @contextmanager
    def open(self, path: Path) -> Iterator[Any]:
        """Write a new file through something with `write` and `flush`; synced and recorded at the end of the block.

        Raises the first OSError of the block at its end: torch's zip writer turns one into a crash of its own.
        """
        with ThreadPoolExecutor(1) as hasher, self._opened(path) as file:
            sink = _HashingSink(file, hasher)
            yield sink
            sink.finish()
        self.records[path.relative_to(self.root).as_posix()] = sink.record

    @staticmethod
    def _opened(path: Path) -> BinaryIO:
        """Its folder is made where it is missing and not asked for where it is there: one touch less a file."""
        try:
            return path.open("wb", buffering=_HASH_BESIDE_BYTES)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("wb", buffering=_HASH_BESIDE_BYTES)


class _HashingSink:
    """Writes a block to the file while another thread hashes the same block."""

    def __init__(self, file: BinaryIO, hasher: ThreadPoolExecutor) -> None:
        self._file, self._hasher = file, hasher
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._error: OSError | None = None

    def write(self, block: bytes | memoryview, /) -> int:
        view = memoryview(block).cast("B")
        for start in range(0, view.nbytes, _PIECE_BYTES):
            if self._error is None:
                try:
                    self._write(view[start : start + _PIECE_BYTES])
                except OSError as error:
                    self._error = error
        return view.nbytes

    def flush(self) -> None:
        """Nothing to do before the end of the file."""

    def finish(self) -> None:
        """Flush and sync, or raise the first error."""
        if self._error is not None:
            raise self._error
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def record(self) -> FileRecord:
        return FileRecord(size_bytes=self._size_bytes, sha256=self._sha256.hexdigest())

    def _write(self, view: memoryview) -> None:
        self._size_bytes += view.nbytes
        if view.nbytes < _HASH_BESIDE_BYTES:
            self._sha256.update(view)
            self._file.write(view)
            return
        hashed = self._hasher.submit(self._sha256.update, view)
        try:
            self._file.write(view)
            self._start_write_back(view.nbytes)
        finally:
            hashed.result()  # the block is the caller's again once we return

    def _start_write_back(self, num_bytes: int) -> None:
        """Let the disk begin now: else it idles until the sync at the end, then everybody waits for it."""
        if hasattr(os, "posix_fadvise"):
            start = self._size_bytes - num_bytes
            os.posix_fadvise(self._file.fileno(), start, num_bytes, os.POSIX_FADV_DONTNEED)


def hash_file(path: Path) -> FileRecord:
    """Read a whole file in chunks; OSError if it cannot be read."""
    sha256, size_bytes = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            size_bytes += len(chunk)
    return FileRecord(size_bytes=size_bytes, sha256=sha256.hexdigest())


def damage(root: Path, expected: dict[str, FileRecord]) -> list[str]:
    """One line per file that is not what its record says, in the order of the records."""
    with ThreadPoolExecutor(_NUM_THREADS) as threads:
        lines = threads.map(lambda item: _damage_of(root, *item), expected.items())
        return [line for line in lines if line]


def _damage_of(root: Path, name: str, expected: FileRecord) -> str | None:
    try:
        size_bytes = (root / name).stat().st_size
        if size_bytes != expected.size_bytes:
            return f"{name}: {size_bytes} bytes, {expected.size_bytes} expected"
        if hash_file(root / name).sha256 != expected.sha256:
            return f"{name}: content differs from its checksum"
    except FileNotFoundError:
        return f"{name}: missing"
    except OSError as error:
        return f"{name}: cannot be read ({error.strerror})"
    return None


def write_synced(path: Path, text: str) -> None:
    """Write a small text file so that after a crash there is the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{token_hex(8)}.partial")
    try:
        write_through(temporary, text)
        rename(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def set_aside(path: Path) -> Path:
    """Move a damaged file out of the way, beside where it was; nothing that may be of use to somebody is removed."""
    for number in count(1):
        aside = path.with_name(f"{path.name}.damaged" + (f"-{number}" if number > 1 else ""))
        if not aside.exists():
            rename(path, aside)
            return aside
    raise AssertionError("there is always another number")


def write_through(path: Path, text: str) -> None:
    """Write a new small text file and bring its content to disk; FileExistsError where something has the name.

    Not even a link: what lies ready under a temporary name is somebody else's.
    """
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Make a file's content, or a directory's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Sync the entries of a directory and of every directory below it; no file is looked at."""
    for path, _, _ in os.walk(root):
        sync(Path(path))
