"""Members of a zip archive, listed as its end has them; more is checked than zipfile does."""

import os
import stat
import zipfile
from collections.abc import Iterator
from typing import cast

from data_pipeline.prepare.archive_reader import CHANGED, NO_FILES, ArchiveReader, Entry, is_hidden, plain_name
from data_pipeline.prepare.compressed import Readable
from data_pipeline.prepare.report import Report

_ENCRYPTED = 0x1 | 0x40  # flags of a member: its own or strong encryption
_END_BYTES = 22  # of the record a zip ends with, before its comment
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_METHOD_NAMES = {1: "shrunk", 6: "imploded", 9: "deflate64", 93: "zstd", 95: "xz", 97: "WavPack", 98: "PPMd", 99: "AES"}


class ZipReader(ArchiveReader):
    """Any member at any time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._zip = zipfile.ZipFile(path)

    def entries(self, *, shown: str, report: Report) -> Iterator[Entry]:
        for number, info in enumerate(self._zip.infolist()):
            name = plain_name(info.filename)
            if (info.is_dir() and not info.file_size) or is_hidden(name):
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                report.add(NO_FILES, f"{shown}/{name}: a link")
            else:
                yield Entry(number, name, info.compress_size)

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
            file.seek(-_END_BYTES - len(self._zip.comment), os.SEEK_END)
            return int.from_bytes(file.read(_END_BYTES)[10:12], "little")

    def can_open(self, number: int) -> bool:
        return True

    def open(self, number: int, *, name: str) -> tuple[Readable, int]:
        info = self._zip.infolist()[number]
        if plain_name(info.filename) != name:
            raise ValueError(CHANGED)
        if info.flag_bits & _ENCRYPTED:
            raise ValueError("it is encrypted; unpack the archive with its password and give the folder")
        if info.compress_type not in _METHODS:
            method = _METHOD_NAMES.get(info.compress_type, "unknown")
            raise ValueError(
                f"compressed by method {info.compress_type} ({method}); unpack the archive and give the folder"
            )
        return cast(Readable, self._zip.open(info)), info.file_size

    def close(self) -> None:
        self._zip.close()
