"""Tokens to webdataset tars with deterministic bytes: temporary name, checksum, fsync, rename."""

import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from data_pipeline.read.reader import DOCUMENTS_SUFFIX, TOKENS_SUFFIX
from data_pipeline.renaming import rename
from data_pipeline.shard_index import Dtype, ShardRecord
from data_pipeline.tokenize.tokenizer import Tokens

PARTIAL_SUFFIX = ".partial"


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opened_anew(partial: Path) -> BinaryIO:
    """A new file in the place of what a killed attempt left; not the file that a link of this name leads to."""
    partial.unlink(missing_ok=True)
    return partial.open("xb")


def write_atomically(path: Path, content: bytes) -> None:
    """`path` holds either what it held before or all of `content`."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    with opened_anew(partial) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    rename(partial, path)
    sync_folder(path.parent)


class _HashedFile:
    """What tarfile writes to: counts and hashes on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


class ShardWriter:
    """One tar of token chunks: `<key>.tokens.npy` and `<key>.documents.npy` (ends of documents within the chunk)."""

    def __init__(self, folder: Path, *, split: str, number: int, dtype: Dtype, chunk_tokens: int) -> None:
        self._path = folder / split / f"shard-{number:06d}.tar"
        self._path.parent.mkdir(exist_ok=True)
        self._partial = self._path.with_name(self._path.name + PARTIAL_SUFFIX)
        self._key = f"{split}-{number:06d}"
        self._name = f"{split}/{self._path.name}"
        self._dtype = np.dtype(dtype)
        self._file = opened_anew(self._partial)
        self._hashed = _HashedFile(self._file)
        self._tar = tarfile.open(fileobj=self._hashed, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[call-overload]  # noqa: SIM115
        self._chunk = np.empty(chunk_tokens, dtype=self._dtype)
        self._filled = 0
        self._ends: list[int] = []
        self._num_chunks = 0
        self.tokens = 0
        self.source_bytes = 0
        self.documents = 0
        self.words = 0

    def add(self, tokens: Tokens, document_ends: NDArray[np.int64], *, source_bytes: int, words: int) -> None:
        """Append tokens; `document_ends` are positions in `tokens`, each in (0, len]."""
        done = 0
        while done < len(tokens):
            size = min(len(tokens) - done, len(self._chunk) - self._filled)
            self._chunk[self._filled : self._filled + size] = tokens[done : done + size]
            inside = document_ends[(document_ends > done) & (document_ends <= done + size)]
            self._ends += (inside - done + self._filled).tolist()
            self._filled, done = self._filled + size, done + size
            if self._filled == len(self._chunk):
                self._flush_chunk()
        self.tokens += len(tokens)
        self.source_bytes += source_bytes
        self.documents += len(document_ends)
        self.words += words

    def finish(self) -> ShardRecord:
        """Close, sync and give the shard its name."""
        if self._filled:
            self._flush_chunk()
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        rename(self._partial, self._path)
        sync_folder(self._path.parent)
        return ShardRecord(
            name=self._name,
            sha256=self._hashed.sha256.hexdigest(),
            bytes=self._hashed.size,
            tokens=self.tokens,
            source_bytes=self.source_bytes,
            documents=self.documents,
            words=self.words,
        )

    def abandon(self) -> None:
        """Close without a name; the partial file is removed by the next preparation."""
        self._file.close()

    def _flush_chunk(self) -> None:
        key = f"{self._key}-{self._num_chunks:06d}"
        self._add_member(key + TOKENS_SUFFIX, self._chunk[: self._filled])
        self._add_member(key + DOCUMENTS_SUFFIX, np.array(self._ends, dtype=np.uint32))
        self._filled, self._ends, self._num_chunks = 0, [], self._num_chunks + 1

    def _add_member(self, name: str, array: Tokens) -> None:
        content = io.BytesIO()
        np.lib.format.write_array(content, array, version=(1, 0))
        member = tarfile.TarInfo(name)  # mtime 0, owner 0, mode 0644: equal tokens give equal bytes
        member.size = content.tell()
        content.seek(0)
        self._tar.addfile(member, content)
