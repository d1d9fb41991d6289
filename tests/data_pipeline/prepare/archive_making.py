"""Small archives of every kind that is read."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import zstandard

from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import find_files, text_blocks

FILES = {
    "corpus/b.txt": b"second by name, first in the archive\n",
    "corpus/a.txt": b"x" * 70_000,
    "corpus/packed.txt.gz": gzip.compress(b"packed on its own\n"),
    ".hidden/x": b"not read",
    "corpus/.DS_Store": b"not read",
    "__MACOSX/corpus/._b.txt": b"not read",
    "corpus/empty.txt": b"",
}
READ = {
    "corpus/b.txt": FILES["corpus/b.txt"],
    "corpus/a.txt": FILES["corpus/a.txt"],
    "corpus/packed.txt.gz": b"packed on its own\n",
    "corpus/empty.txt": b"",
}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(files: dict[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return stream.getvalue()


KINDS = {
    "stored.zip": lambda files: zipped(files, zipfile.ZIP_STORED),
    "deflated.zip": zipped,
    "bzip2.zip": lambda files: zipped(files, zipfile.ZIP_BZIP2),
    "lzma.zip": lambda files: zipped(files, zipfile.ZIP_LZMA),
    "ustar.tar": lambda files: tarred(files, tarfile.USTAR_FORMAT),
    "gnu.tar": lambda files: tarred(files, tarfile.GNU_FORMAT),
    "pax.tar": tarred,
    "a.tar.gz": lambda files: gzip.compress(tarred(files)),
    "a.tar.xz": lambda files: lzma.compress(tarred(files)),
    "a.tar.bz2": lambda files: bz2.compress(tarred(files)),
    "a.tar.zst": lambda files: zstandard.ZstdCompressor().compress(tarred(files)),
    "named-nothing-at-all": lambda files: gzip.compress(tarred(files)),
}


def written(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def contents(*given: str, report: Report | None = None) -> dict[str, bytes]:
    return {file.name: b"".join(text_blocks(file)) for file in find_files(given, report=report)}


def joined(files: dict[str, bytes]) -> bytes:
    return b"".join(files.values())
