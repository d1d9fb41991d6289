"""Remote shards, fetched once per machine into a folder of bounded size, checked on arrival, the next one ahead.

Several processes share the folder: a lock per shard, and a shard has its name only when it is whole. The least
recently used shards go first; one that is mapped stays readable after its name is gone.
"""

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from data_pipeline.errors import DataError
from data_pipeline.remote import open_remote
from data_pipeline.renaming import rename
from data_pipeline.shard_index import ShardRecord

FOLDER_VARIABLE, SIZE_VARIABLE = "HIERLM_DATA_CACHE", "HIERLM_DATA_CACHE_BYTES"
DEFAULT_BYTES = 64 << 30
_READ_BYTES = 1 << 20
PARTIAL = ".partial"
ABANDONED_SECONDS = 3600
ROOM_LOCK = "room.lock"
T = TypeVar("T")
ARRIVALS = 2  # tries before a checksum that does not fit is given up


def cache_folder() -> Path:
    """HIERLM_DATA_CACHE, or the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(base) / "hierlm-data")


def cache_bytes() -> int:
    """HIERLM_DATA_CACHE_BYTES, or DEFAULT_BYTES."""
    given = os.environ.get(SIZE_VARIABLE, str(DEFAULT_BYTES))
    if not given.isdigit():
        raise DataError(f"{SIZE_VARIABLE} is {given!r}; it must be a number of bytes")
    return int(given)


class ShardCache:
    """Local paths of the shards of one remote split."""

    def __init__(
        self, address: str, shards: Sequence[ShardRecord], *, folder: Path | None = None, max_bytes: int | None = None
    ) -> None:
        self._address, self._shards = address.rstrip("/"), shards
        self._root = folder or cache_folder()
        self._max_bytes = cache_bytes() if max_bytes is None else max_bytes
        largest = max((shard.bytes for shard in shards), default=0)
        if largest > self._max_bytes:
            raise DataError(f"{address}: a shard of {largest} bytes is above {SIZE_VARIABLE}={self._max_bytes}")
        self._ahead: threading.Thread | None = None

    def opened(self, number: int, open_shard: Callable[[Path], T]) -> T:
        """Shard `number`, opened; fetches it if need be, and begins to fetch the one after it."""
        path = self._local(number)
        while True:
            self._fetch(number)
            with _locked(self._root / ROOM_LOCK):  # nobody makes room just now
                if path.exists():
                    found = open_shard(path)
                    break
        self._fetch_ahead(number + 1)
        return found

    def _fetch_ahead(self, number: int) -> None:
        """On its own thread, one at a time; a failure shows when the shard is really wanted."""
        if number >= len(self._shards) or self._local(number).exists() or (self._ahead and self._ahead.is_alive()):
            return

        def work() -> None:
            with contextlib.suppress(DataError, OSError):
                self._fetch(number)

        self._ahead = threading.Thread(target=work, name="shard-prefetch", daemon=True)
        self._ahead.start()

    def _local(self, number: int) -> Path:
        """By checksum, so that equal shards are one and a changed dataset never meets old ones."""
        return self._root / f"{self._shards[number].sha256}.tar"

    def _fetch(self, number: int) -> None:
        path = self._local(number)
        self._root.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            if not path.exists():
                self._reserve(self._shards[number].bytes, path.with_suffix(PARTIAL))
                self._download(self._shards[number], path)
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)

    def _download(self, shard: ShardRecord, path: Path) -> None:
        address = f"{self._address}/{shard.name}"
        partial = path.with_suffix(PARTIAL)
        for _ in range(ARRIVALS):
            digest = _copy(address, partial, max_bytes=shard.bytes)
            if digest == shard.sha256:
                rename(partial, path)
                return
        partial.unlink()
        raise DataError(f"{address}: arrived damaged {ARRIVALS} times: sha256 {digest[:16]}, not {shard.sha256[:16]}")

    def _reserve(self, needed: int, partial: Path) -> None:
        """Make room and hold it with an empty file of that size, so that others count it too."""
        with _locked(self._root / ROOM_LOCK):
            partial.unlink(missing_ok=True)
            there = sorted(_sizes(self._root), key=lambda entry: entry[0])
            total = needed + sum(size for _, size, _ in there)
            for _, size, path in there:
                if total > self._max_bytes and (path.suffix != PARTIAL or _is_abandoned(path)):
                    path.unlink(missing_ok=True)
                    total -= size
            with partial.open("xb") as file:
                file.truncate(needed)


def _sizes(root: Path) -> Iterator[tuple[float, int, Path]]:
    """(last use, bytes, path) of every shard, also of those on their way."""
    for path in [*root.glob("*.tar"), *root.glob(f"*{PARTIAL}")]:
        with contextlib.suppress(FileNotFoundError):  # another process made room
            found = path.stat()
            yield found.st_mtime, found.st_size, path


def _is_abandoned(partial: Path) -> bool:
    return time.time() - partial.stat().st_mtime > ABANDONED_SECONDS


def _copy(address: str, path: Path, *, max_bytes: int) -> str:
    """Fetch to `path`; the sha256 of what arrived, of no more than a block beyond `max_bytes`."""
    digest = hashlib.sha256()
    with open_remote(address) as remote, path.open("r+b") as file:  # keeps the size it was given, which others count
        while block := remote.read(_READ_BYTES):
            digest.update(block)
            file.write(block)
            if file.tell() > max_bytes:  # more than there is room for, and not what is wanted
                break
        file.truncate()
    return digest.hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
