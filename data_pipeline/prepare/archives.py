"""Zip and tar archives as the files they hold: each visible member is an input of its own, in the archive's order.

A compressed tar can only be read forwards. So one open reader a process goes on from member to member, and is opened
anew to go back: reading all members costs one pass over the archive, not one for each.
"""

import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from data_pipeline.prepare.archive_reader import ArchiveReader
from data_pipeline.prepare.compressed import DamageError, unpacked
from data_pipeline.prepare.file_kinds import HEAD_BYTES, is_tar, is_zip, packing_of
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.tar_reader import TarReader
from data_pipeline.prepare.zip_reader import ZipReader

ArchiveKind = Literal["zip", "tar", "packed tar"]
_DAMAGES = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    ValueError,
    EOFError,
    OverflowError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
)
"""What the standard library raises of archives that are cut off, damaged or made up."""


@dataclass(frozen=True)
class Member:
    """One file in an archive: the `number`th entry, hidden ones, folders and links counted."""

    archive: str
    number: int
    name: str
    stored_bytes: int

    def open(self) -> BinaryIO:
        """Its bytes as stored, to be read forwards once; ValueError or OSError when they cannot be."""
        return io.BufferedReader(_MemberStream(self))


class BrokenArchiveError(ValueError):
    """An archive whose list of members cannot be read."""


def archive_kind(path: str) -> ArchiveKind | None:
    """What kind of archive a local file is, told by its content; None for any other, and where it cannot be opened."""
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return None
    if is_zip(head):
        return "zip"
    if is_tar(head):
        return "tar"
    return "packed tar" if packing_of(head) and is_tar(_unpacked_head(path)) else None


def members_of(path: str, kind: ArchiveKind, *, shown: str, report: Report) -> list[Member]:
    """The visible files of an archive. BrokenArchiveError when they cannot all be known."""
    try:
        with opened_archive(path, kind) as reader:
            found = [Member(path, *entry) for entry in reader.entries(shown=shown, report=report)]
            reader.check_end()
    except (OSError, *_DAMAGES) as error:
        raise BrokenArchiveError(f"{_said(error)} (a {kind} archive)") from None
    return found


def _unpacked_head(path: str) -> bytes:
    """Empty when the file is damaged, as whoever reads its text will find."""
    head = b""
    try:
        with open(path, "rb") as file:
            for block in unpacked(file):
                head += block
                if len(head) >= HEAD_BYTES:
                    break
    except (OSError, ValueError):
        return b""
    return head[:HEAD_BYTES]


def opened_archive(path: str, kind: ArchiveKind) -> ArchiveReader:
    """To read its members, or to list them; OSError or one of _DAMAGES when it cannot be read."""
    return ZipReader(path) if kind == "zip" else TarReader(path, packed=kind == "packed tar")


@dataclass
class _Kept:
    """The reader that was used last, to go on from."""

    key: tuple[Any, ...] | None = None
    reader: ArchiveReader | None = None

    def take(self, member: Member) -> tuple[tuple[Any, ...], ArchiveReader]:
        """For one member at a time: whoever asks meanwhile gets another."""
        now = os.stat(member.archive)
        key = (os.getpid(), member.archive, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
        reader, self.reader = self.reader, None
        if reader is not None and (key != self.key or not reader.can_open(member.number)):
            reader.close()
            reader = None
        if reader is None:
            reader = opened_archive(member.archive, archive_kind(member.archive) or "tar")
        return key, reader

    def give_back(self, key: tuple[Any, ...], reader: ArchiveReader) -> None:
        if self.reader is not None:
            self.reader.close()
        self.key, self.reader = key, reader


_KEPT = _Kept()


class _MemberStream(io.RawIOBase):
    """One member; an end before its size, or a checksum that is wrong, is an error."""

    def __init__(self, member: Member) -> None:
        self._reader: ArchiveReader | None = None
        self._count = 0
        with self._told():
            self._key, self._reader = _KEPT.take(member)
            self._stream, self._size = self._reader.open(member.number, name=member.name)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._told():
            data = self._stream.read(len(buffer))
            if not data and self._count != self._size:
                raise ValueError(f"the member ends after {self._count} bytes of {self._size}")
        self._count += len(data)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            _KEPT.give_back(self._key, reader)
        super().close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What is raised of a damaged archive becomes ValueError; its reader is not gone on with."""
        try:
            yield
        except Exception as error:
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            if isinstance(error, DamageError):
                raise DamageError(error.reason, offset=error.offset, of="the archive") from None
            if isinstance(error, _DAMAGES) and not isinstance(error, ValueError):
                raise ValueError(f"the archive is damaged: {_said(error)}") from None
            raise


def _said(error: BaseException) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
