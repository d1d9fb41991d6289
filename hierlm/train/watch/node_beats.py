"""What the processes of one node last said, gathered there and told to all nodes by one of them.

/dev/shm/hierlm-RUN-NODE-ATTEMPT/rank-0003.json   one rank, every beat, in the memory of its node
RUN/heartbeats/7/from-rank-0000.json              all ranks of a node, now and then, by the first of them that is well

A run's file system is shared: thousands of processes that rewrite a file each every few seconds would keep its
metadata server busy. So a node opens one file there every `TELL_SECONDS`, and rank 0 reads them once a minute: that is
less than one operation a node in 10 seconds. A process that is alone in its memory (containers that share none) tells
for itself.
"""

import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import NamedTuple

from hierlm.durable import rename

TELL_SECONDS = 15.0
"""Between two words of a node to the others."""

SILENT_BEATS = 3
"""So many beats missed, and a process of the same node counts as silent: then another one tells for all."""

_SHARED_MEMORY = Path("/dev/shm")


class Heartbeat(NamedTuple):
    """What one rank was last heard to do."""

    rank: int
    host: str
    pid: int
    step: int  # completed optimizer steps
    activity: str
    marks: int  # how often it has got on: the same on every rank at the same place
    seconds: float  # at this activity
    time: float  # when this was said, seconds since 1970
    probe_seconds: float | None = None  # of a fixed piece of work, see `hierlm.train.watch.slow_ranks`

    @property
    def place(self) -> str:
        """`rank 3 (node2, process 4711)`."""
        return f"rank {self.rank} ({self.host}, process {self.pid})"


def node_folder(*, run: str, attempt: str, node: int) -> Path:
    """Where the processes of a node meet, made by the first of them: in memory, for this user alone.

    `attempt` is known to the attempt only, so nobody can have made it before. What an earlier attempt of the run was
    killed in goes. Where it cannot be used, a folder of this process alone.
    """
    root = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    of_run = f"hierlm-{_short(run)}-{node}-"
    folder = root / (of_run + _short(attempt))
    for earlier in root.glob(of_run + "*"):
        if earlier != folder:
            rmtree(earlier, ignore_errors=True)
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix=of_run))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class NodeBeats:
    """The word of one rank, and of its node. No error of a file system is one of training."""

    def __init__(self, local: Path, shared: Path, *, rank: int, beat_seconds: float, tell_seconds: float) -> None:
        self._local, self._shared, self._rank = local, shared, rank
        self._beat_seconds, self._tell_seconds = beat_seconds, tell_seconds
        self._beats, self._told = 0, float("-inf")
        self._is_teller = False

    @property
    def is_teller(self) -> bool:
        """Whether this rank tells the other nodes, as far as it knew at its last beat."""
        return self._is_teller

    def say(self, beat: Heartbeat) -> None:
        """To the node, and if it is time, and this rank's to do, to the others."""
        self._beats += 1
        _replace(self._local / _name(self._rank), beat._asdict())
        fresh = beat.time - SILENT_BEATS * self._beat_seconds
        here = read_beats(self._local, "rank-*.json")
        well = [one.rank for one in here if one.time >= fresh]
        # who comes late may be the first: nobody tells before all have had the time to come
        self._is_teller = self._rank == min(well, default=self._rank) and self._beats > SILENT_BEATS
        if self._is_teller and time.monotonic() - self._told >= self._tell_seconds:
            self.tell(here)

    def tell(self, here: Sequence[Heartbeat] | None = None) -> None:
        """To the other nodes, now: one file is opened, in which the old words are written over."""
        self._told = time.monotonic()
        beats = read_beats(self._local, "rank-*.json") if here is None else here
        with suppress(OSError):  # a full disk is no hang
            (self._shared / _told_by(self._rank)).write_text(
                json.dumps([beat._asdict() for beat in beats]), encoding="utf-8"
            )

    def heard(self) -> list[Heartbeat]:
        """The last word of every rank, by rank: of this node's from its memory, of others as they have told."""
        return newest([*read_beats(self._shared, "from-rank-*.json"), *read_beats(self._local, "rank-*.json")])

    def knows_other_nodes(self) -> bool:
        """Whether others than the ranks of this node were heard of."""
        here = {beat.rank for beat in read_beats(self._local, "rank-*.json")}
        return any(beat.rank not in here for beat in read_beats(self._shared, "from-rank-*.json"))

    def stop(self) -> None:
        """This rank says no more; the last one of the node leaves nothing in its memory."""
        with suppress(OSError):
            (self._local / _name(self._rank)).unlink(missing_ok=True)
            (self._shared / _told_by(self._rank)).unlink(missing_ok=True)
            self._local.rmdir()  # not while others are in it


def newest(beats: Iterable[Heartbeat]) -> list[Heartbeat]:
    """Of each rank its last word, by rank."""
    last: dict[int, Heartbeat] = {}
    for beat in beats:
        if beat.rank not in last or last[beat.rank].time < beat.time:
            last[beat.rank] = beat
    return [last[rank] for rank in sorted(last)]


def read_beats(folder: Path, pattern: str) -> list[Heartbeat]:
    """What the files of a folder say; those just being written are passed over."""
    found = []
    for path in sorted(folder.glob(pattern)):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            found += [Heartbeat(**beat) for beat in (said if isinstance(said, list) else [said])]
        except (OSError, ValueError, TypeError):
            continue
    return found


def _name(rank: int) -> str:
    return f"rank-{rank:04d}.json"


def _told_by(rank: int) -> str:
    return f"from-rank-{rank:04d}.json"


def _replace(path: Path, content: dict[str, object]) -> None:
    draft = path.with_name(f".{path.name}.{token_hex(8)}.partial")
    try:
        with draft.open("x", encoding="utf-8") as file:
            file.write(json.dumps(content))
        rename(draft, path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
