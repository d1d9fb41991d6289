"""Zip and tar archives as the files they hold: each visible member is an input of its own, in the archive's order.

A compressed tar can only be read forwards. So one open reader a process goes on from member to member, and is opened
anew to go back: reading all members costs one pass over the archive, not one for each.
"""

import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Literal, Protocol, cast

from data_pipeline.prepare.compressed import BlockStream, DamageError, Readable, unpacked
from data_pipeline.prepare.file_kinds import HEAD_BYTES, is_tar, is_zip, packing_of
from data_pipeline.prepare.report import Report, printable

ArchiveKind = Literal["zip", "tar", "packed tar"]
_ENCRYPTED = 0x1 | 0x40  # flags of a zip member: its own or strong encryption
_ZIP_END_BYTES = 22  # of the record a zip ends with, before its comment
_ZIP_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_METHOD_NAMES = {1: "shrunk", 6: "imploded", 9: "deflate64", 93: "zstd", 95: "xz", 97: "WavPack", 98: "PPMd", 99: "AES"}
_VOLUME_TYPES = {b"V": "a volume label", b"D": "a list of names"}  # of GNU tar; neither is a file
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
        with _opened(path, kind) as reader:
            found = [*reader.listed(shown, report)]
            reader.check_end()
    except (OSError, *_DAMAGES) as error:
        raise BrokenArchiveError(f"{_said(error)} (a {kind} archive)") from None
    return found


def is_hidden(name: str) -> bool:
    """Whether a path has a part that begins with a dot, or lies in the folder macOS adds to archives."""
    parts = [part for part in PurePosixPath(name).parts if part != ".."]
    return any(part.startswith(".") for part in parts) or parts[:1] == ["__MACOSX"]


def _plain_name(name: str) -> str:
    """Without `./`, which many tars have before every name."""
    return printable(str(PurePosixPath(name)))


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


class _Reader(Protocol):
    """An open archive."""

    def listed(self, shown: str, report: Report) -> Iterator[Member]: ...
    def check_end(self) -> None: ...
    def can_open(self, number: int) -> bool: ...
    def open(self, member: Member) -> tuple[Readable, int]:
        """The bytes of a member and how many there must be."""
        ...

    def close(self) -> None: ...
    def __enter__(self) -> "_Reader": ...
    def __exit__(self, *_: object) -> None: ...


class _Closing:
    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _ZipReader(_Closing):
    """Any member at any time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path)

    def listed(self, shown: str, report: Report) -> Iterator[Member]:
        for number, info in enumerate(self._zip.infolist()):
            name = _plain_name(info.filename)
            if (info.is_dir() and not info.file_size) or is_hidden(name):
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                report.add("archive members that are no files", f"{shown}/{name}: a link")
            else:
                yield Member(self._path, number, name, info.compress_size)

    def check_end(self) -> None:
        """That nothing is missing from the list, which stands at a zip's end: archives in a row look like the last."""
        count = self._recorded_count()
        if count not in (len(self._zip.infolist()) & 0xFFFF, 0xFFFF):
            raise ValueError(f"its list of members is damaged: {len(self._zip.infolist())} of {count}")
        first = min((info.header_offset for info in self._zip.infolist()), default=self._zip.start_dir)
        if first:
            raise ValueError(f"{first} bytes stand before its first member, as when archives are joined; give each")

    def _recorded_count(self) -> int:
        """Of members, modulo 2**16, or 0xFFFF where more than that may be recorded elsewhere (zip64)."""
        with open(self._path, "rb") as file:
            file.seek(-_ZIP_END_BYTES - len(self._zip.comment), os.SEEK_END)
            return int.from_bytes(file.read(_ZIP_END_BYTES)[10:12], "little")

    def can_open(self, number: int) -> bool:
        return True

    def open(self, member: Member) -> tuple[Readable, int]:
        info = self._zip.infolist()[member.number]
        if _plain_name(info.filename) != member.name:
            raise ValueError("the archive changed while it was being read")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError("it is encrypted; unpack the archive with its password and give the folder")
        if info.compress_type not in _ZIP_METHODS:
            name = _METHOD_NAMES.get(info.compress_type, "unknown")
            raise ValueError(
                f"compressed by method {info.compress_type} ({name}); unpack the archive and give the folder"
            )
        return cast(Readable, self._zip.open(info)), info.file_size

    def close(self) -> None:
        self._zip.close()


class _StrictTarInfo(tarfile.TarInfo):
    """A header that is none is an error; tarfile itself takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_StrictTarInfo":
        try:
            return cls._checked(super().frombuf(buf, encoding, errors))
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"what should be a header is none ({error})") from None

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_StrictTarInfo":
        return cls._checked(super().fromtarfile(tarfile))

    @staticmethod
    def _checked(info: Any) -> "_StrictTarInfo":
        """A size below zero would lead backwards, round and round."""
        if info.size < 0:
            raise tarfile.ReadError(f"a member of {info.size} bytes")
        if info.type == b"M":
            raise tarfile.ReadError("it is one volume of several; join them (tar --multi-volume) and pack them anew")
        return cast(_StrictTarInfo, info)


class _TarReader(_Closing):
    """Members one after another."""

    def __init__(self, path: str, *, packed: bool) -> None:
        self._path, self._next = path, 0
        with ExitStack() as opened:
            stored = opened.enter_context(open(path, "rb"))
            source: Any = BlockStream(unpacked(stored)) if packed else stored
            mode: Any = "r|" if packed else "r:"
            self._tar: Any = opened.enter_context(
                tarfile.open(fileobj=source, mode=mode, bufsize=1 << 17, tarinfo=_StrictTarInfo, errorlevel=2)
            )
            self._opened = opened.pop_all()

    def listed(self, shown: str, report: Report) -> Iterator[Member]:
        while info := self._advance():
            number, name = self._next - 1, _plain_name(info.name)
            if info.isdir() or is_hidden(name):
                continue
            if reason := _no_file(info):
                report.add("archive members that are no files", f"{shown}/{name}: {reason}")
            else:
                yield Member(self._path, number, name, info.size)

    def check_end(self) -> None:
        """After the last member: nothing but zeros, to the end of what the archive was compressed into."""
        stream = cast(Any, self._tar.fileobj)
        while rest := stream.read(1 << 17):
            if rest.count(0) != len(rest):
                raise ValueError(
                    f"more stands behind its end (byte {self._tar.offset} of the tar), as when archives are joined; "
                    "give each of them"
                )

    def can_open(self, number: int) -> bool:
        return number >= self._next

    def open(self, member: Member) -> tuple[Readable, int]:
        info = None
        while self._next <= member.number:
            info = self._advance()
            if info is None:
                raise ValueError("the archive changed while it was being read")
        if info is None or _plain_name(info.name) != member.name:
            raise ValueError("the archive changed while it was being read")
        return cast(Readable, self._tar.extractfile(info)), info.size

    def close(self) -> None:
        self._opened.close()

    def _advance(self) -> tarfile.TarInfo | None:
        try:
            info: tarfile.TarInfo | None = self._tar.next()
        except tarfile.TarError as error:
            raise ValueError(f"at byte {self._tar.offset} of the tar: {error}") from None
        self._next += 1
        self._tar.members.clear()  # a list of what went by, which nobody asks for, longer with every member
        return info


def _no_file(info: tarfile.TarInfo) -> str | None:
    """What a member is that holds no text."""
    if info.issym() or info.islnk():
        return "a link"
    if info.ischr() or info.isblk() or info.isfifo():
        return "a device or pipe"
    return _VOLUME_TYPES.get(info.type)


def _opened(path: str, kind: ArchiveKind) -> "_Reader":
    return _ZipReader(path) if kind == "zip" else _TarReader(path, packed=kind == "packed tar")


@dataclass
class _Kept:
    """The reader that was used last, to go on from."""

    key: tuple[Any, ...] | None = None
    reader: _Reader | None = None

    def take(self, member: Member) -> tuple[tuple[Any, ...], _Reader]:
        """For one member at a time: whoever asks meanwhile gets another."""
        now = os.stat(member.archive)
        key = (os.getpid(), member.archive, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
        reader, self.reader = self.reader, None
        if reader is not None and (key != self.key or not reader.can_open(member.number)):
            reader.close()
            reader = None
        if reader is None:
            reader = _opened(member.archive, archive_kind(member.archive) or "tar")
        return key, reader

    def give_back(self, key: tuple[Any, ...], reader: _Reader) -> None:
        if self.reader is not None:
            self.reader.close()
        self.key, self.reader = key, reader


_KEPT = _Kept()


class _MemberStream(io.RawIOBase):
    """One member; an end before its size, or a checksum that is wrong, is an error."""

    def __init__(self, member: Member) -> None:
        self._reader: _Reader | None = None
        self._count = 0
        with self._told():
            self._key, self._reader = _KEPT.take(member)
            self._stream, self._size = self._reader.open(member)

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
