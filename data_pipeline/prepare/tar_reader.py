"""Members of a tar archive one after another, plain or compressed; what tarfile passes over in silence is an error."""

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

from data_pipeline.prepare.archive_reader import CHANGED, NO_FILES, ArchiveReader, Entry, is_hidden, plain_name
from data_pipeline.prepare.compressed import BlockStream, Readable, unpacked
from data_pipeline.prepare.report import Report

_VOLUME_TYPES = {b"V": "a volume label", b"D": "a list of names"}  # of GNU tar; neither is a file


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


class TarReader(ArchiveReader):
    """Members one after another."""

    def __init__(self, path: str, *, packed: bool) -> None:
        self._next = 0
        with ExitStack() as opened:
            stored = opened.enter_context(open(path, "rb"))
            source: Any = BlockStream(unpacked(stored)) if packed else stored
            mode: Any = "r|" if packed else "r:"
            self._tar: Any = opened.enter_context(
                tarfile.open(fileobj=source, mode=mode, bufsize=1 << 17, tarinfo=_StrictTarInfo, errorlevel=2)
            )
            self._opened = opened.pop_all()

    def entries(self, *, shown: str, report: Report) -> Iterator[Entry]:
        while info := self._advance():
            number, name = self._next - 1, plain_name(info.name)
            if info.isdir() or is_hidden(name):
                continue
            if reason := _no_file(info):
                report.add(NO_FILES, f"{shown}/{name}: {reason}")
            else:
                yield Entry(number, name, info.size)

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

    def open(self, number: int, *, name: str) -> tuple[Readable, int]:
        info = None
        while self._next <= number:
            info = self._advance()
            if info is None:
                raise ValueError(CHANGED)
        if info is None or plain_name(info.name) != name:
            raise ValueError(CHANGED)
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
