"""Which shards have been read and what their checksums were, kept beside the dataset, so that each is read once.

One line of JSON per shard, added when it has been read. Several nodes add to the same file: a line is one write, and
one that cannot be understood is as good as absent. Where the folder cannot be written, the file is in the user's cache.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data_pipeline.read.shard_cache import cache_folder

FILE_NAME = "verified.jsonl"


class Stamp(NamedTuple):
    """What tells that a file is still the one that was read: its size, and when its content and its entry changed.

    A copy or an overwritten file with its old modification time has another entry.
    """

    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Stamp":
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Seen(NamedTuple):
    """A shard as it was when it was read."""

    stamp: Stamp
    sha256: str


class Remembered:
    """The shards of one dataset that were read, by name; `refresh` learns of what other processes have added."""

    def __init__(self, directory: Path) -> None:
        self._beside = directory / FILE_NAME
        self._files = (self._beside, *_in_cache(directory))
        self._read_up_to = dict.fromkeys(self._files, 0)
        self.shards: dict[str, Seen] = {}

    def refresh(self) -> None:
        """Read what is new in the files."""
        for path in self._files:
            self.shards.update(self._new_in(path))

    def add(self, name: str, seen: Seen) -> None:
        """Keep what was found, where that can be written; elsewhere it is forgotten with this process."""
        self.shards[name] = seen
        entry = {"name": name, **seen.stamp._asdict(), "sha256": seen.sha256}
        line = json.dumps(entry, allow_nan=False).encode() + b"\n"
        for path in self._files:
            with contextlib.suppress(OSError):
                if path != self._beside:
                    path.parent.mkdir(parents=True, exist_ok=True)
                with _opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as file:
                    os.write(file, line)
                return

    def _new_in(self, path: Path) -> Iterator[tuple[str, Seen]]:
        try:
            with _opened(path, os.O_RDONLY) as file:
                os.lseek(file, self._read_up_to[path], os.SEEK_SET)
                text = b"".join(iter(lambda: os.read(file, 1 << 20), b""))
        except OSError:
            return
        whole = text.rfind(b"\n") + 1  # a line that is being written is read next time
        self._read_up_to[path] += whole
        yield from filter(None, map(_entry, text[:whole].splitlines()))


def _in_cache(directory: Path) -> Iterator[Path]:
    """Nowhere for a user without a home."""
    whole = hashlib.sha256(os.fsencode(os.path.abspath(directory))).hexdigest()
    with contextlib.suppress(RuntimeError):
        yield cache_folder() / f"verified-{whole[:32]}.jsonl"


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    """A plain file and nothing else: a dataset may be a stranger's, and its links lead elsewhere."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(f"{path} is no plain file")
        yield file
    finally:
        os.close(file)


def _entry(line: bytes) -> tuple[str, Seen] | None:
    try:
        entry = json.loads(line)
        stamp = Stamp(*(entry[field] for field in Stamp._fields))
        name, sha256 = entry["name"], entry["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(isinstance(number, int) for number in stamp) or not isinstance(name, str) or not isinstance(sha256, str):
        return None
    return name, Seen(stamp, sha256)
