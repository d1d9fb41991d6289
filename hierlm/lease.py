"""One writer per run: every attempt takes a lease with a generation number; the highest generation holds the run.

leases/generation-00000003   made once, by an exclusive link, never changed and never removed

An older attempt may live on somewhere: its node was cut off, or it was paused, and it wakes at any instant, also
between a check and the act that follows it. So no lock and no clock is trusted; this is what keeps it out:

- What an attempt makes visible it writes under a temporary name that holds its generation, then asks whether the lease
  is still its own, then renames. A newcomer takes its lease, then takes away all temporary names of others, and only
  then looks at what there is to go on from. If the older one asked before the lease was taken, its temporary name was
  there before the sweep: its rename either came before the newcomer looked, or it fails.
- A file that grows (metrics.jsonl) is replaced by a copy when a newcomer opens it: the older attempt's descriptor leads
  to a file that has no name any more.
- What an attempt deletes it first renames, then asks, then deletes; a newcomer does not count on what was renamed.

To ask is to list the directory: opening it makes a network file system with close-to-open consistency ask its server.
"""

import errno
import json
import os
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

from hierlm.durable import rename, sync, write_through

_NAME = re.compile(r"generation-(\d{8,})")
_TEMPORARY = re.compile(r"\..+\.g(\d+)(?:\.[0-9a-f]+)?\.partial")
"""That of 0.2 had no random part."""

_NO_LINKS_HERE = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


class TakenOverError(RuntimeError):
    """Another attempt holds the run now; one line that says which."""


@dataclass(frozen=True)
class Fence:
    """Stands between a writer and its files; this one lets everything through: the directory has no other writer."""

    generation: int = 0

    def is_current(self) -> bool:
        """Whether this writer may still write."""
        return True

    def require_current(self) -> None:
        """Raises TakenOverError; OSError where the directory cannot be read."""

    def temporary(self, path: Path) -> Path:
        """Where to write what `publish` puts in the place of `path`; another name each time, which nobody foresees."""
        return path.with_name(f".{path.name}.g{self.generation}.{token_hex(8)}.partial")

    def publish(self, temporary: Path, path: Path) -> None:
        """Rename, unless another attempt has taken over."""
        self.require_current()
        try:
            rename(temporary, path)
        except FileNotFoundError:
            self.require_current()  # it did in this very moment
            raise

    def write(self, path: Path, text: str) -> None:
        """Replace a small text file: after a crash there is the old one or the new one, whole."""
        temporary = self.temporary(path)
        try:
            write_through(temporary, text)
            self.publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)


UNFENCED = Fence()


@dataclass(frozen=True)
class Lease(Fence):
    """The claim of one attempt; every rank of it holds the same."""

    directory: Path = Path()
    claim: str = ""

    def is_current(self) -> bool:
        """Whether no later attempt has taken the run, and the directory is still the one this claim was made in."""
        try:
            return self._is_newest()
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
        try:  # a network file system had lost hold of that file: asked by its name again, it looks it up
            return self._is_newest()
        except FileNotFoundError:
            return False

    def _is_newest(self) -> bool:
        mine = _file(self.directory, self.generation).read_text(encoding="utf-8") == self.claim
        return mine and _newest(self.directory) == self.generation

    def require_current(self) -> None:
        if not self.is_current():
            raise TakenOverError(self.successor())

    def successor(self) -> str:
        """Who has taken over, in one line."""
        claim = holder(self.directory)
        who = claim.description if claim else "its directory is gone"
        return f"another attempt ({who}) has taken over this run; this one stops"


@dataclass(frozen=True)
class Claim:
    """What a lease says about the process that took it: rank 0 of the attempt."""

    host: str
    pid: int
    process_start: str  # of this pid, since boot: a later process may have the same number
    boot: str
    job_id: str | None
    since: str
    token: str

    @property
    def description(self) -> str:
        """Host, job and since when."""
        what = f"job {self.job_id}" if self.job_id else f"process {self.pid}"
        return f"{self.host}, {what}, since {self.since}"

    def is_alive_here(self) -> bool:
        """Whether the process provably runs, or is paused, on this machine."""
        here = self.host == socket.gethostname() and self.boot == _boot()
        return here and self.process_start != "" and _process_start(self.pid) == self.process_start


def take(directory: Path, *, sweep: tuple[Path, ...] = ()) -> Lease:
    """Take the run whose leases lie in `directory`; temporary files of earlier attempts in `sweep` are taken away."""
    directory.mkdir(parents=True, exist_ok=True)
    claim = json.dumps(_own_claim().__dict__)
    draft = directory / f".draft-{uuid4().hex}"
    try:
        write_through(draft, claim)
        generation = _newest(directory) + 1
        while not _made(draft, _file(directory, generation), claim):
            generation = max(generation, _newest(directory)) + 1
    finally:
        draft.unlink(missing_ok=True)
    sync(directory)
    for place in sweep:
        take_away(place, generation=generation)
    return Lease(generation, directory, claim)


def holder(directory: Path) -> Claim | None:
    """Whose lease is the newest; None when there is none or it cannot be read."""
    try:
        content: dict[str, Any] = json.loads(_file(directory, _newest(directory)).read_text(encoding="utf-8"))
        return Claim(**content)
    except (OSError, ValueError, TypeError):
        return None


def _own_claim() -> Claim:
    return Claim(
        host=socket.gethostname(),
        pid=os.getpid(),
        process_start=_process_start(os.getpid()),
        boot=_boot(),
        job_id=os.environ.get("SLURM_JOB_ID"),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        token=uuid4().hex,
    )


def _file(directory: Path, generation: int) -> Path:
    return directory / f"generation-{generation:08d}"


def _newest(directory: Path) -> int:
    """0 when no lease was taken yet."""
    matches = (_NAME.fullmatch(name) for name in os.listdir(directory))
    return max((int(match[1]) for match in matches if match), default=0)


def _made(draft: Path, path: Path, claim: str) -> bool:
    """Whether `path` is ours now: a link appears whole, and for one of all who try."""
    try:
        os.link(draft, path)
    except FileExistsError:
        return os.stat(draft).st_nlink > 1  # a network file system answers so to the repeat of a request it has served
    except OSError as error:
        if error.errno not in _NO_LINKS_HERE:
            raise
        return _made_without_links(path, claim)
    return True


def _made_without_links(path: Path, claim: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(claim)
        file.flush()
        os.fsync(file.fileno())
    return True


def take_away(place: Path, *, generation: int) -> None:
    """Take away what writers of earlier generations left under temporary names."""
    for path in place.iterdir() if place.is_dir() else ():
        match = _TEMPORARY.fullmatch(path.name)
        if match and int(match[1]) < generation:
            path.unlink(missing_ok=True)


def _boot() -> str:
    """Which start of this machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process began, in clock ticks since boot; empty when there is none, or only its exit status is left."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in "ZX" else after_name[19]
