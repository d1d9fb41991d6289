"""Tokens of a split by position: memory-mapped tars, read in place through their member headers."""

import mmap
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.remote import is_remote
from data_pipeline.shard_cache import ShardCache
from data_pipeline.shard_index import DatasetIndex, ShardRecord, SplitRecord, load_index, split_of
from data_pipeline.tokenizer import Tokenizer, load_tokenizer

TOKENS_SUFFIX = ".tokens.npy"
DOCUMENTS_SUFFIX = ".documents.npy"
BLOCK = 512  # bytes; tar headers and member padding
OPEN_SHARDS = 128  # each mapping holds one file descriptor


class Member(NamedTuple):
    """One file in a tar: its content is `size` bytes from `offset`."""

    name: str
    offset: int
    size: int


def tar_members(buffer: mmap.mmap | bytes) -> Iterator[Member]:
    """Walk the ustar headers: name at 0..100, size in octal at 124..136."""
    position = 0
    while position + BLOCK <= len(buffer):
        header = buffer[position : position + BLOCK]
        if header[0] == 0:
            return
        size = int(header[124:136].rstrip(b"\0 "), 8)
        yield Member(header[:100].rstrip(b"\0").decode(), position + BLOCK, size)
        position += BLOCK + -(-size // BLOCK) * BLOCK


def npy_array(buffer: mmap.mmap | bytes, member: Member, *, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The one-dimensional array of a version 1.0 .npy member, without a copy."""
    header_bytes = 10 + int.from_bytes(buffer[member.offset + 8 : member.offset + 10], "little")
    count = (member.size - header_bytes) // dtype.itemsize
    return np.frombuffer(buffer, dtype=dtype, count=count, offset=member.offset + header_bytes)


class OpenShard:
    """A mapped tar: its token chunks as arrays over the file."""

    def __init__(self, path: Path, *, record: ShardRecord, dtype: np.dtype[Any]) -> None:
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: shard cannot be read ({error}); `hierlm data verify` lists all damage") from None
        if len(self._map) != record.bytes:
            raise DataError(f"{path}: shard has {len(self._map)} bytes, dataset.json says {record.bytes}")
        members = list(tar_members(self._map))
        self.chunks = [npy_array(self._map, m, dtype=dtype) for m in members if m.name.endswith(TOKENS_SUFFIX)]
        self._documents = [m for m in members if m.name.endswith(DOCUMENTS_SUFFIX)]
        if sum(map(len, self.chunks)) != record.tokens:
            raise DataError(f"{path}: shard does not hold the {record.tokens} tokens dataset.json names")

    def document_ends(self, chunk: int) -> NDArray[np.uint32]:
        """Ends of documents in one chunk: positions one past a document's last token."""
        return npy_array(self._map, self._documents[chunk], dtype=np.dtype(np.uint32))


class SplitReader:
    """Random access to the token stream of one split; a remote dataset is read through the cache of this machine."""

    def __init__(self, directory: str | Path, split: str) -> None:
        self.directory = directory
        self.index: DatasetIndex = load_index(directory)
        self.record: SplitRecord = split_of(self.index, split, directory=directory)
        self.name = split
        self._dtype = np.dtype(self.index.dtype)
        self._starts = [0, *accumulate(shard.tokens for shard in self.record.shards)]
        self._cache = ShardCache(str(directory), self.record.shards) if is_remote(directory) else None
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

    @property
    def num_tokens(self) -> int:
        return self.record.tokens

    @property
    def source_bytes(self) -> int:
        """Bytes of source text this split was made from: the denominator of bits per byte."""
        return self.record.source_bytes

    @property
    def vocab_size(self) -> int:
        return self.index.tokenizer.vocab_size

    @property
    def fingerprint(self) -> str:
        """Of the dataset, not of the tokenizer."""
        return self.index.fingerprint

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return load_tokenizer(self.directory, self.index.tokenizer)

    def read_into(self, out: NDArray[np.int64], *, start: int) -> None:
        """Fill `out` [n] with tokens [start, start + n) of the split, across chunk and shard borders."""
        assert 0 <= start <= self.num_tokens - len(out)
        filled = 0
        while filled < len(out):
            piece = self._chunk_from(start + filled)[: len(out) - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens [start, stop) of the split."""
        out = np.empty(stop - start, dtype=np.int64)
        self.read_into(out, start=start)
        return out

    def document_starts(self, start: int, stop: int) -> NDArray[np.bool_]:
        """For tokens [start, stop): True where the token is the first of a document."""
        mask = np.zeros(stop - start, dtype=np.bool_)
        if start == 0 and stop > 0:
            mask[0] = True
        position = max(start - 1, 0)  # a document that ends just before `start` begins one at it
        while position < stop:
            shard, chunk, chunk_start, length = self._locate(position)
            ends = self._shard(shard).document_ends(chunk).astype(np.int64) + chunk_start
            inside = ends[(ends >= start) & (ends < stop)]
            mask[inside - start] = True
            position = chunk_start + length
        return mask

    def _chunk_from(self, position: int) -> NDArray[Any]:
        """The rest of the chunk that holds token `position`."""
        shard = bisect_right(self._starts, position) - 1
        chunk, offset = divmod(position - self._starts[shard], self.index.chunk_tokens)
        return self._shard(shard).chunks[chunk][offset:]

    def _locate(self, position: int) -> tuple[int, int, int, int]:
        """(shard, chunk, first token of the chunk, its length) around a token of the split."""
        shard = bisect_right(self._starts, position) - 1
        chunk = (position - self._starts[shard]) // self.index.chunk_tokens
        chunk_start = self._starts[shard] + chunk * self.index.chunk_tokens
        return shard, chunk, chunk_start, len(self._shard(shard).chunks[chunk])

    def _path(self, number: int) -> Path:
        return self._cache.path(number) if self._cache else Path(self.directory) / self.record.shards[number].name

    def _shard(self, number: int) -> OpenShard:
        shard = self._open.get(number)
        if shard is None:
            record = self.record.shards[number]
            shard = self._open[number] = OpenShard(self._path(number), record=record, dtype=self._dtype)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(number)
        return shard
