"""Streaming bytes of source files: plain, gz, xz, zst or bz2, told apart by content; never a whole file in memory."""

import bz2
import glob
import gzip
import lzma
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from data_pipeline.errors import DataError
from data_pipeline.masking import masked
from data_pipeline.prepare.pipe import is_pipe, open_pipe
from data_pipeline.remote import glob_remote, is_remote, open_remote, remote_size

BLOCK_BYTES = 1 << 20
_ZSTD_FEED_BYTES = 1 << 14  # small, so that a highly compressed block cannot fill the memory


def is_elsewhere(path: str) -> bool:
    """Whether a source is no place in the file system."""
    return is_pipe(path) or is_remote(path)


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class SourceFile:
    """One input; `name` is what is recorded and sorted by, independent of where the folder lies."""

    path: str
    name: str

    @cached_property
    def stored_bytes(self) -> int:
        """Size as stored, before decompression; 0 where it cannot be known."""
        if is_pipe(self.path):
            return 0
        return remote_size(self.path) if is_remote(self.path) else os.stat(self.path).st_size

    @property
    def modified_seconds(self) -> float:
        """When a local file was last written to."""
        return 0.0 if is_elsewhere(self.path) else os.stat(self.path).st_mtime

    def open_stored(self) -> BinaryIO:
        if is_pipe(self.path):
            return open_pipe(self.path)
        return open_remote(self.path) if is_remote(self.path) else open(self.path, "rb")


def find_files(inputs: Sequence[str]) -> list[SourceFile]:
    """Files named by paths, folders (all files below, hidden ones left out) and globs, in the order given.

    DataError with one line per input that names nothing readable. Inside a folder or glob the order is by name.
    """
    found: list[SourceFile] = []
    problems: list[str] = []
    for given in inputs:
        try:
            files = _expand(given)
        except DataError as error:
            problems += error.problems
            continue
        problems += [f"{file.path}: cannot be read (permission denied)" for file in files if not _readable(file)]
        found += files
    if problems:
        raise DataError(problems)
    if not found:
        raise DataError("no input: give --input FILE, a folder or a glob")
    return found


def _readable(file: SourceFile) -> bool:
    return is_elsewhere(file.path) or os.access(file.path, os.R_OK)


def _expand(given: str) -> list[SourceFile]:
    if is_pipe(given):
        return [SourceFile(given, masked(given))]
    if is_remote(given):
        return _remote_files(given)
    path = Path(given)
    if path.is_dir():
        return _folder_files(path)
    if path.exists():
        return [SourceFile(given, path.name)]
    if not glob.has_magic(given):
        raise DataError(f"{given}: no such file or folder")
    matches = [Path(match) for match in sorted(glob.glob(given, recursive=True))]
    files = [file for match in matches for file in _glob_files(match)]
    if not files:
        raise DataError(f"{given}: the pattern matches no file")
    return files


def _remote_files(address: str) -> list[SourceFile]:
    if not glob.has_magic(address):
        return [SourceFile(address, masked(address.rsplit("/", 1)[-1]))]
    matches = glob_remote(address)
    if not matches:
        raise DataError(f"{address}: the pattern matches no file")
    return [SourceFile(match, match.rsplit("/", 1)[-1]) for match in matches]


def _glob_files(match: Path) -> list[SourceFile]:
    return _folder_files(match) if match.is_dir() else [SourceFile(str(match), match.name)]


def _folder_files(folder: Path) -> list[SourceFile]:
    relative = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    visible = sorted(str(path) for path in relative if not any(part.startswith(".") for part in path.parts))
    if not visible:
        raise DataError(f"{folder}: the folder holds no file")
    return [SourceFile(str(folder / name), name) for name in visible]


def text_blocks(file: SourceFile) -> Iterator[bytes]:
    """The decompressed content in blocks of exactly BLOCK_BYTES, the last one shorter.

    DataError naming the file and the position when it cannot be read or the archive is broken.
    """
    position = 0
    try:
        with file.open_stored() as stored:
            for block in _exact_blocks(_decompressed(stored)):
                yield block
                position += len(block)
    except DataError:  # of a remote file: says all there is to say
        raise
    except (OSError, EOFError, lzma.LZMAError, zlib.error, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"{file.path}: cannot be read after byte {position} of its text: {reason}") from None


def _decompressed(stored: BinaryIO) -> Iterator[bytes]:
    magic = cast(Any, stored).peek(10)[:10]
    if magic.startswith(b"\x1f\x8b"):
        return _reads(gzip.GzipFile(fileobj=stored, mode="rb"))
    if magic.startswith(b"\xfd7zXZ\0"):
        return _reads(lzma.LZMAFile(stored))
    if magic.startswith(b"BZh") and magic[4:] == b"1AY&SY":
        return _reads(bz2.BZ2File(stored))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return _zstd_reads(stored)
    return _reads(stored)


def _reads(stream: Readable) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        yield block


def _zstd_reads(stored: BinaryIO) -> Iterator[bytes]:
    """All frames of a zst file; zstandard's own reader would take a cut-off frame for the end of the text."""
    import zstandard

    frame = None
    while fed := stored.read(_ZSTD_FEED_BYTES):
        while fed:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(fed)
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
            fed = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("compressed file ended before the end of its last frame")


def _exact_blocks(reads: Iterator[bytes]) -> Iterator[bytes]:
    """Re-cut to BLOCK_BYTES, so that nothing downstream depends on how a stream happens to be read."""
    held = bytearray()
    for block in reads:
        if not held and len(block) == BLOCK_BYTES:
            yield block
            continue
        held += block
        while len(held) >= BLOCK_BYTES:
            yield bytes(held[:BLOCK_BYTES])
            del held[:BLOCK_BYTES]
    if held:
        yield bytes(held)
