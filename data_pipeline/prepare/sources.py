"""Input files: finding them by what the user named, and their text as a stream; never a whole file in memory."""

import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from data_pipeline.errors import DataError
from data_pipeline.masking import masked
from data_pipeline.prepare.archives import BrokenArchiveError, Member, archive_kind, members_of
from data_pipeline.prepare.compressed import BLOCK_BYTES, text_of
from data_pipeline.prepare.folders import files_below
from data_pipeline.prepare.pipe import is_pipe, open_pipe
from data_pipeline.prepare.report import Report, printable
from data_pipeline.remote import glob_remote, is_remote, open_remote, remote_size

_NOT_UNPACKED = ".npz"  # arrays of images, which images.py reads


@dataclass(frozen=True)
class Unreadable:
    """An archive that cannot be listed; who reads it learns why, and may leave it out as any other broken file."""

    archive: str
    reason: str


@dataclass(frozen=True)
class SourceFile:
    """One input; `name` is what is recorded and sorted by, independent of where the folder lies.

    `path` is what messages say. The bytes are there, too, unless `place` says otherwise: a member of an archive, or a
    path that is no text.
    """

    path: str
    name: str
    place: str | Member | Unreadable = ""

    @cached_property
    def stored_bytes(self) -> int:
        """Size as stored, before decompression; 0 where it cannot be known."""
        if isinstance(self.place, Member):
            return self.place.stored_bytes
        if is_pipe(self.path) and not self.place:
            return 0
        return remote_size(self.path) if self.is_remote else self._stat.st_size

    @property
    def modified_seconds(self) -> float:
        """When a local file, or the archive it lies in, was last written to."""
        return 0.0 if self.is_remote else self._stat.st_mtime

    @property
    def is_remote(self) -> bool:
        """Whether it is no place in the file system: an address, or what a command gives."""
        return not self.place and (is_pipe(self.path) or is_remote(self.path))

    @property
    def identity(self) -> tuple[object, ...]:
        """Equal for two inputs that are one and the same file, whatever links lead to it."""
        if self.is_remote:
            return (self.path,)
        inside = self.place.number if isinstance(self.place, Member) else None
        return (self._stat.st_dev, self._stat.st_ino, inside)

    def open_stored(self) -> BinaryIO:
        """A buffered reader; DataError when the file is known to be broken."""
        if isinstance(self.place, Member):
            return self.place.open()
        if isinstance(self.place, Unreadable):
            raise DataError(f"{self.path}: cannot be read: {self.place.reason}")
        if self.is_remote:
            return open_pipe(self.path) if is_pipe(self.path) else open_remote(self.path)
        return open(self.local_path, "rb")

    @property
    def local_path(self) -> str:
        """Of the file itself, or of the archive it lies in."""
        return (self.place or self.path) if isinstance(self.place, str) else self.place.archive

    @cached_property
    def _stat(self) -> os.stat_result:
        return os.stat(self.local_path)


def find_files(inputs: Sequence[str], *, report: Report | None = None) -> list[SourceFile]:
    """Files named by paths, folders (all files below, hidden ones left out), globs and archives, in the order given.

    DataError with one line per input that names nothing readable. Inside a folder or glob the order is by name, inside
    an archive its own. A file that is reached twice is read once, which `report` says, as links that lead nowhere.
    """
    report = Report() if report is None else report
    found: list[SourceFile] = []
    problems: list[str] = []
    for given in inputs:
        try:
            files = _expand(given, report)
        except DataError as error:
            problems += error.problems
            continue
        problems += [f"{file.path}: cannot be read (permission denied)" for file in files if not _readable(file)]
        found += files
    if problems:
        raise DataError(problems)
    if not found:
        raise DataError("no input: give --input FILE, a folder or a glob")
    return _once(found, report)


def _readable(file: SourceFile) -> bool:
    return file.is_remote or os.access(file.local_path, os.R_OK)


def _once(files: Sequence[SourceFile], report: Report) -> list[SourceFile]:
    first: dict[tuple[object, ...], SourceFile] = {}
    for file in files:
        before = first.setdefault(file.identity, file)
        if before is not file:
            report.add("files reached twice", f"{file.path}: is {before.path}")
    return list(first.values())


def _expand(given: str, report: Report) -> list[SourceFile]:
    if is_pipe(given) or is_remote(given):
        return _remote_files(given)
    path = Path(given)
    if given == "-" or path.exists() or not glob.has_magic(given):
        return _files_at(given, name=path.name, report=report)
    matches = sorted(glob.glob(given, recursive=True))
    files = [file for match in matches for file in _match_files(match, report)]
    return files or _members_named(given, report)


def _match_files(match: str, report: Report) -> list[SourceFile]:
    if os.path.islink(match) and not os.path.exists(match):
        report.add("links to nothing", match)
        return []
    return _files_at(match, name=Path(match).name, report=report)


def _files_at(given: str, *, name: str, report: Report) -> list[SourceFile]:
    """What one path stands for: a file, the files below a folder, or the members of an archive."""
    try:
        mode = os.stat(given).st_mode
    except OSError:
        if given != "-":
            return _members_named(given, report)
        mode = stat.S_IFIFO
    if stat.S_ISDIR(mode):
        return _folder_files(given, report)
    if not stat.S_ISREG(mode):
        raise DataError(
            f"{given}: a stream and not a file, and inputs are read more than once; write it to a file, or give the "
            "command that makes it as --input 'pipe:COMMAND'"
        )
    return _file_or_members(given, name=name, report=report)


def _remote_files(address: str) -> list[SourceFile]:
    if is_pipe(address) or not glob.has_magic(address):
        return [SourceFile(address, masked(address.rsplit("/", 1)[-1] if "://" in address else address))]
    matches = glob_remote(address)
    if not matches:
        raise DataError(f"{address}: the pattern matches no file")
    return [SourceFile(match, match.rsplit("/", 1)[-1]) for match in matches]


def _folder_files(folder: str, report: Report) -> list[SourceFile]:
    names = files_below(folder, report=report)
    if not names:
        raise DataError(f"{folder}: the folder holds no file")
    return [file for name in names for file in _file_or_members(str(Path(folder) / name), name=name, report=report)]


def _file_or_members(path: str, *, name: str, report: Report) -> list[SourceFile]:
    shown, name = printable(path), printable(name)
    kind = None if name.lower().endswith(_NOT_UNPACKED) else archive_kind(path)
    if kind is None:
        return [SourceFile(shown, name, place="" if shown == path else path)]
    try:
        members = members_of(path, kind, shown=shown, report=report)
    except BrokenArchiveError as error:
        return [SourceFile(shown, name, Unreadable(path, str(error)))]
    if not members:
        return [SourceFile(shown, name, Unreadable(path, f"the {kind} archive holds no file"))]
    return [SourceFile(f"{shown}/{member.name}", f"{name}/{member.name}", member) for member in members]


def _members_named(given: str, report: Report) -> list[SourceFile]:
    """Of `archive.zip/folder/name`: the member, or those below such a folder, or those that a pattern matches."""
    archive = next((parent for parent in Path(given).parents if parent.is_file()), None)
    if archive is None:
        missing = "the pattern matches no file" if glob.has_magic(given) else "no such file or folder"
        raise DataError(f"{given}: {missing}")
    wanted = printable(str(Path(given).relative_to(archive)))
    files = _file_or_members(str(archive), name=archive.name, report=report)
    chosen = [file for file in files if isinstance(file.place, Member) and _is_wanted(file.place.name, wanted)]
    if not chosen:
        there = ", ".join(file.place.name for file in files if isinstance(file.place, Member))
        raise DataError(f"{given}: no such file in {archive} (there: {there[:200] or 'none'})")
    return chosen


def _is_wanted(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}/") or fnmatchcase(name, wanted)


@contextmanager
def seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The stream, or what it gives in a temporary file where it can only be read forwards."""
    if stream.seekable():
        yield stream
        return
    with tempfile.TemporaryFile() as spooled:
        shutil.copyfileobj(stream, spooled, BLOCK_BYTES)
        spooled.seek(0)
        yield spooled


def text_blocks(file: SourceFile) -> Iterator[bytes]:
    """The decompressed content in blocks of exactly BLOCK_BYTES, the last one shorter.

    DataError naming the file and the position when it cannot be read, is broken, or is an archive.
    """
    position = 0
    try:
        with file.open_stored() as stored:
            for block in _exact_blocks(text_of(stored, name=file.name)):
                yield block
                position += len(block)
    except DataError:  # of a remote or unreadable file: says all there is to say
        raise
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{file.path}: cannot be read after byte {position} of its text: {reason}") from None


def _exact_blocks(reads: Iterator[bytes]) -> Iterator[bytes]:
    """Re-cut to BLOCK_BYTES, so that nothing downstream depends on how a stream happens to be read."""
    held: list[bytes] = []
    size = 0
    for block in reads:
        if not held and len(block) == BLOCK_BYTES:
            yield block
            continue
        held.append(block)
        size += len(block)
        if size >= BLOCK_BYTES:
            whole = b"".join(held)
            end = size - size % BLOCK_BYTES
            yield from (whole[start : start + BLOCK_BYTES] for start in range(0, end, BLOCK_BYTES))
            held, size = [whole[end:]] if end < size else [], size - end
    if held:
        yield b"".join(held)
