"""Are the local shards of a run what dataset.json says? Sizes at once, checksums beside training, each shard once.

A shard that was read before and is unchanged is not read again. One that has changed since is suspect, and is read
before anything is learned from it. Remote shards are not looked at here: the cache checks them when they arrive.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.check.remembered import Remembered, Seen, Stamp
from data_pipeline.remote import is_remote
from data_pipeline.shard_index import ShardRecord, load_index

READ_BYTES = 4 << 20
BYTES_PER_SECOND = 100e6  # of reading beside training: a tenth to a quarter of a core
SUSPECT_BYTES = 4 << 30  # read at most before the first step; what is more comes first beside training
NICENESS = 10
READ_BY_A_RUN = ("train", "valid")


class LocalShard(NamedTuple):
    """A shard on this machine's file systems."""

    path: Path
    record: ShardRecord
    remembered: Remembered  # of its dataset


class ShardCheck:
    """The shards that one process answers for: `look` before training, `start` beside it, `finish` at its end."""

    def __init__(self, directories: Iterable[str | Path], *, splits: Sequence[str] = READ_BY_A_RUN) -> None:
        """DataError when a directory is no dataset."""
        self._shards = _local_shards(directories, splits)
        self._left: deque[LocalShard] = deque()
        self._problems: list[str] = []
        self._closed, self._hurries = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """One line per shard that is not what dataset.json says, so far."""
        return tuple(self._problems)

    @property
    def num_left(self) -> int:
        """Shards whose checksums are not known yet."""
        return len(self._left)

    def look(self) -> None:
        """Compare sizes, and the checksums of what has changed since it was read; find out what is left to read."""
        suspect, unknown = [], []
        for remembered in {id(shard.remembered): shard.remembered for shard in self._shards}.values():
            remembered.refresh()
        for shard in self._shards:
            stamp = self._stamp_of_right_size(shard)
            if stamp is None:
                continue
            seen = shard.remembered.shards.get(shard.record.name)
            if seen is None:
                unknown.append(shard)
            elif seen.stamp != stamp:
                suspect.append(shard)
            else:
                self._compare(shard, seen.sha256)
        self._left = deque(self._read_suspects(suspect) + unknown)

    def start(self, *, share: int = 0, num_shares: int = 1) -> None:
        """Read what is left on a thread that steps back for others; once.

        Of several nodes each begins elsewhere, and leaves out what another one has told of meanwhile.
        """
        if self._thread is not None:
            return
        self._left.rotate(-(len(self._left) * share // max(num_shares, 1)))
        self._thread = threading.Thread(target=self._work, name="shard-check", daemon=True)
        self._thread.start()

    def finish(self, *, seconds: float) -> bool:
        """Read without stepping back; whether reading has come to its end within `seconds`."""
        self._hurries.set()
        if self._thread is None:
            return not self._left
        self._thread.join(timeout=seconds)
        return not self._thread.is_alive()

    def close(self) -> None:
        """Stop reading."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def _read_suspects(self, suspect: Sequence[LocalShard]) -> list[LocalShard]:
        """The checksums of so many as can be waited for; the others."""
        room = SUSPECT_BYTES
        for number, shard in enumerate(suspect):
            room -= shard.record.bytes
            if room < 0:
                return list(suspect[number:])
            self._read(shard, after_block=lambda _: None)
        return []

    def _work(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)  # of this thread alone, on Linux
        try:
            self._read_left()
        except Exception as error:  # else nobody would ever hear that no more is read
            self._problems.append(f"shards cannot be checked ({type(error).__name__}: {error}); or data.verify=never")

    def _read_left(self) -> None:
        while self._left and not self._closed.is_set():
            shard = self._left[0]
            shard.remembered.refresh()
            stamp = self._stamp_of_right_size(shard)
            seen = shard.remembered.shards.get(shard.record.name)
            if seen is not None and seen.stamp == stamp:  # another node has read it
                self._compare(shard, seen.sha256)
            elif stamp is not None:
                self._read(shard, after_block=self._step_back)
            if not self._closed.is_set():
                self._left.popleft()

    def _step_back(self, seconds: float) -> None:
        """Between two blocks, the last of which took so long."""
        if self._closed.is_set():
            raise _StoppedError
        if not self._hurries.is_set():
            self._hurries.wait(max(READ_BYTES / BYTES_PER_SECOND - seconds, 0.0))

    def _stamp_of_right_size(self, shard: LocalShard) -> Stamp | None:
        """None where there is no such file, or none of that size: then that is a problem."""
        try:
            stamp = Stamp.of(shard.path.stat())
        except (OSError, ValueError) as error:  # a name may hold a NUL
            self._problems.append(f"{shard.path}: cannot be read ({_reason(error)}); {_MEND}")
            return None
        if stamp.size != shard.record.bytes:
            self._problems.append(f"{shard.path}: {stamp.size} bytes, dataset.json says {shard.record.bytes}; {_MEND}")
            return None
        return stamp

    def _read(self, shard: LocalShard, *, after_block: Callable[[float], None]) -> None:
        try:
            seen = read_shard(shard.path, after_block=after_block)
        except _StoppedError:
            return
        except (OSError, ValueError) as error:  # a name may hold a NUL
            self._problems.append(f"{shard.path}: cannot be read ({_reason(error)}); {_MEND}")
            return
        shard.remembered.add(shard.record.name, seen)
        self._compare(shard, seen.sha256)

    def _compare(self, shard: LocalShard, sha256: str) -> None:
        wanted = shard.record.sha256
        if sha256 != wanted:
            what = f"damaged or replaced: sha256 is {sha256[:16]}, dataset.json says {wanted[:16]}"
            self._problems.append(f"{shard.path}: {what}; {_MEND}")


_MEND = "restore it or prepare the dataset again (`hierlm data verify` lists all damage)"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class _StoppedError(Exception):
    """Nobody waits for the checksum any more."""


def _local_shards(directories: Iterable[str | Path], splits: Sequence[str]) -> list[LocalShard]:
    """Each shard once, whatever names it."""
    found: dict[Path, LocalShard] = {}
    for directory in dict.fromkeys(map(str, directories)):
        if is_remote(directory):
            continue
        folder, index = Path(directory), load_index(directory)
        remembered = Remembered(folder)
        for name in splits:
            for record in index.splits[name].shards if name in index.splits else ():
                found.setdefault(folder / record.name, LocalShard(folder / record.name, record, remembered))
    return list(found.values())


def read_shard(path: Path, *, after_block: Callable[[float], None] = lambda seconds: None) -> Seen:
    """The checksum of a file and what it was when reading began; OSError when it cannot be read.

    `after_block` is told how many seconds the last READ_BYTES took.
    """
    digest, block = hashlib.sha256(), memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        while True:
            began = time.perf_counter()
            count = file.readinto(block)
            if not count:
                break
            digest.update(block[:count])
            after_block(time.perf_counter() - began)
    return Seen(stamp, digest.hexdigest())
