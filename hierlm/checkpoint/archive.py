"""The archive that torch.save writes: which stretch of the file holds which record. Torch-free.

Records are stored as they are, never packed, so that tensors can be read from the disk as they are touched; an archive
that says otherwise is not one of torch's. Its checksums are not looked at: the manifest has a SHA-256 of the file.
"""

import os
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierlm.checkpoint.plain_pickle import ITEM_BYTES, MakeTensor, NotPlainError, Numbers, Strided, read_plain
from hierlm.errors import UserError

_CONTENT, _VALUES, _BYTE_ORDER = "data.pkl", "data/", "byteorder"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_IS_ENCRYPTED = 1
_UNREADABLE = (zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError, ValueError, EOFError)


@dataclass(frozen=True)
class Stretch:
    """Bytes of a file."""

    start: int
    size: int


@dataclass(frozen=True)
class Archive:
    """A file of torch.save's, opened: only its table of contents is in memory."""

    path: Path
    records: Mapping[str, Stretch]

    def bytes_of(self, name: str) -> bytes:
        """A small record, whole."""
        stretch = self.records[name]
        with self.path.open("rb") as file:
            file.seek(stretch.start)
            return file.read(stretch.size)

    def stretch_of(self, numbers: Numbers) -> Stretch:
        """Where a tensor's values lie."""
        stretch, size = self.records.get(_VALUES + numbers.key), numbers.count * ITEM_BYTES[numbers.kind]
        if stretch is None or stretch.size < size:
            raise NotPlainError("describes a tensor without its values")
        return Stretch(stretch.start, size)

    def content(self, tensor: MakeTensor) -> Any:
        """What was saved; UserError, in one line, for a file that holds more than plain data and tensors."""
        try:
            return read_plain(self.bytes_of(_CONTENT), tensor=tensor)
        except NotPlainError as error:
            raise _refused(self.path, str(error)) from None


def open_archive(path: Path) -> Archive:
    """UserError for a file that torch.save has not written; OSError where there is none."""
    try:
        return Archive(path, _records(path))
    except NotPlainError as error:
        raise _refused(path, str(error)) from None
    except _UNREADABLE as error:
        raise _refused(path, f"is no archive of tensors ({type(error).__name__})") from None


def problem_of(path: Path) -> str | None:
    """Why a load would refuse the file, whatever its checksum; None where it would not."""
    try:
        archive = open_archive(path)

        def check(tensor: Strided) -> None:
            archive.stretch_of(tensor.numbers)

        archive.content(check)
    except UserError as error:
        return error.problems[0].partition(": ")[2]
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _refused(path: Path, why: str) -> UserError:
    return UserError(
        f"{path}: {why}: nothing of it was run; it is not what hierlm saved, so take the checkpoint from where it was "
        "made, or go on from another one"
    )


def _records(path: Path) -> dict[str, Stretch]:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        size = os.fstat(file.fileno()).st_size
        entries = archive.infolist()
        folders = {entry.filename.partition("/")[0] for entry in entries}
        if len(folders) != 1 or len({entry.filename for entry in entries}) != len(entries):
            raise NotPlainError("is no archive of tensors (its records are not one folder)")
        records = {entry.filename.partition("/")[2]: _stretch(file, entry, size) for entry in entries}
        if _CONTENT not in records or "constants.pkl" in records:
            raise NotPlainError(f"is no archive of tensors (no {_CONTENT}, or a program beside it)")
        order = records.get(_BYTE_ORDER)
        if order is not None and _read(file, order) != sys.byteorder.encode():
            raise NotPlainError("was written on a machine of the other byte order")
    return records


def _stretch(file: Any, entry: zipfile.ZipInfo, size: int) -> Stretch:
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _IS_ENCRYPTED:
        raise NotPlainError("is no archive of tensors (its records are packed)")
    if not 0 <= entry.header_offset < size:
        raise NotPlainError("is no archive of tensors (its records reach beyond the file)")
    file.seek(entry.header_offset)
    header = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = entry.header_offset + _LOCAL_HEADER.size + header[-2] + header[-1]
    if header[0] != b"PK\x03\x04" or entry.file_size != entry.compress_size or start + entry.file_size > size:
        raise NotPlainError("is no archive of tensors (its records reach beyond the file)")
    return Stretch(start, entry.file_size)


def _read(file: Any, stretch: Stretch) -> bytes:
    file.seek(stretch.start)
    content: bytes = file.read(min(stretch.size, 16))
    return content
