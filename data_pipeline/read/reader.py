"""Tokens of a split by position: memory-mapped tars, read in place through their member headers."""

import mmap
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.image_shape import Kind
from data_pipeline.read.shard_cache import ShardCache
from data_pipeline.remote import is_remote
from data_pipeline.shard_index import DatasetIndex, ShardRecord, SplitRecord, load_index, split_of
from data_pipeline.tokenize.tokenizer import Tokenizer, load_tokenizer

TOKENS_SUFFIX = ".tokens.npy"
DOCUMENTS_SUFFIX = ".documents.npy"
BLOCK = 512  # bytes; tar headers and member padding
OPEN_SHARDS = 128  # each mapping holds one file descriptor


class OpenShard:
    """A mapped tar: its token chunks and document ends as arrays over the file.

    Members alternate, tokens and documents of each chunk. While every documents member fits one block, chunks lie at
    equal distances, and one look at the last header proves it: no member can be smaller. Else the headers are walked.
    """

    def __init__(self, path: Path, *, record: ShardRecord, dtype: np.dtype[Any], chunk_tokens: int) -> None:
        self._path, self._dtype, self._chunk_tokens = path, dtype, chunk_tokens
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: shard cannot be read ({error}); `hierlm data verify` lists all damage") from None
        if len(self._map) != record.bytes:
            raise DataError(f"{path}: shard has {len(self._map)} bytes, dataset.json says {record.bytes}")
        if not record.tokens:
            raise DataError(f"{path}: dataset.json says that it holds no tokens; prepare the dataset again")
        self.tokens = np.frombuffer(self._map, dtype=dtype, count=len(self._map) // dtype.itemsize)
        self.num_chunks = -(-record.tokens // chunk_tokens)
        try:
            self._members = self._equal_distances() or self._walked()
        except DataError:
            raise
        except ValueError as error:  # of a size that is no number
            raise self._misplaced(str(error)) from None
        header = 10 + int.from_bytes(self._map[BLOCK + 8 : BLOCK + 10], "little")  # of every .npy in this tar
        self.bases = [(member + BLOCK + header) // dtype.itemsize for member in self._members]
        """Where each chunk begins in `tokens`, which is the whole file seen as tokens."""
        self.last_length = record.tokens - (self.num_chunks - 1) * chunk_tokens
        try:
            self._require_sizes(header)
        except DataError:
            raise
        except ValueError as error:
            raise self._misplaced(str(error)) from None
        self._require_room()

    def _require_room(self) -> None:
        """Every chunk lies inside the file, whoever wrote its headers: a reader would wait for what never comes."""
        room = len(self.tokens)
        for number, base in enumerate(self.bases):
            length = self.last_length if number == self.num_chunks - 1 else self._chunk_tokens
            if not 0 <= base <= room - length:
                raise self._misplaced(f"chunk {number} reaches beyond the file")

    def _misplaced(self, what: str) -> DataError:
        return DataError(f"{self._path}: {' '.join(what.split())}; run `hierlm data verify`")

    def chunk(self, number: int) -> NDArray[Any]:
        """The tokens of one chunk, without a copy."""
        length = self.last_length if number == self.num_chunks - 1 else self._chunk_tokens
        return self.tokens[self.bases[number] : self.bases[number] + length]

    def document_ends(self, number: int) -> NDArray[np.uint32]:
        """Ends of documents in one chunk: positions one past a document's last token."""
        try:
            start = self._after(self._members[number])
            header = 10 + int.from_bytes(self._map[start + BLOCK + 8 : start + BLOCK + 10], "little")
            count = (self._size(start) - header) // 4
            if start < 0 or count < 0:
                raise ValueError(f"the documents of chunk {number} are not where they should be")
            return np.frombuffer(self._map, dtype=np.uint32, count=count, offset=start + BLOCK + header)
        except ValueError as error:  # of numpy too, where they reach beyond the file
            raise self._misplaced(str(error)) from None

    def _require_sizes(self, header: int) -> None:
        """DataError unless the first and the last chunk hold as many tokens, of as many bytes, as they should."""
        for number in (0, self.num_chunks - 1):
            length = self.last_length if number == self.num_chunks - 1 else self._chunk_tokens
            start, size = self._members[number], header + length * self._dtype.itemsize
            if self._size(start) != size or start + BLOCK + size > len(self._map):
                raise DataError(
                    f"{self._path}: chunk {number} does not hold {length} tokens of {self._dtype}, as dataset.json "
                    "has it; run `hierlm data verify`"
                )

    def _size(self, start: int) -> int:
        """Bytes of the member whose header begins at `start`: octal digits at 124..136."""
        try:
            return int(self._map[start + 124 : start + 135], 8)
        except ValueError:
            raise DataError(f"{self._path}: byte {start} begins no member of a tar; run `hierlm data verify`") from None

    def _after(self, start: int) -> int:
        """Where the next member's header begins."""
        return start + BLOCK + -(-self._size(start) // BLOCK) * BLOCK

    def _is_tokens(self, start: int, chunk: int) -> bool:
        name = self._map[start : start + 100].rstrip(b"\0")
        return name.endswith(f"-{chunk:06d}{TOKENS_SUFFIX}".encode())

    def _equal_distances(self) -> list[int] | None:
        distance = self._after(0) + 2 * BLOCK
        last = (self.num_chunks - 1) * distance
        return list(range(0, last + 1, distance)) if self._is_tokens(last, self.num_chunks - 1) else None

    def _walked(self) -> list[int]:
        found, start = [], 0
        for chunk in range(self.num_chunks):
            if not self._is_tokens(start, chunk):
                raise self._misplaced(f"chunk {chunk} is not where it should be")
            found.append(start)
            start = self._after(self._after(start))
        return found


class SplitReader:
    """Random access to the token stream of one split; a remote dataset is read through the cache of this machine."""

    def __init__(self, directory: str | Path, split: str) -> None:
        self.directory = directory
        self.index: DatasetIndex = load_index(directory)
        self.record: SplitRecord = split_of(self.index, split, directory=directory)
        self.name = split
        self._dtype = np.dtype(self.index.dtype)
        self._chunk_tokens = self.index.chunk_tokens
        self._starts = [0, *accumulate(shard.tokens for shard in self.record.shards)]
        if self._starts[-1] != self.record.tokens:
            there = f"split {split} has {self.record.tokens} tokens, its shards {self._starts[-1]}"
            raise DataError(f"{directory}: {there}; prepare the dataset again")
        self._cache = ShardCache(str(directory), self.record.shards) if is_remote(directory) else None
        self._open: dict[int, OpenShard] = {}

    @property
    def num_tokens(self) -> int:
        return self.record.tokens

    @property
    def source_bytes(self) -> int:
        """Bytes of source text this split was made from: the denominator of bits per byte."""
        return self.record.source_bytes

    @property
    def tokens_per_byte(self) -> float:
        """Turns nats per token into nats per source byte."""
        return self.num_tokens / self.source_bytes

    @property
    def num_words(self) -> int | None:
        """Whitespace-separated words of that text; None for images and where the preparation did not count them."""
        return self.record.words if self.index.kind == "text" else None

    @property
    def kind(self) -> Kind:
        """What the dataset is made of; of images, a token is a dimension."""
        return self.index.kind

    @property
    def vocab_size(self) -> int:
        return self.index.tokenizer.vocab_size

    @property
    def fingerprint(self) -> str:
        """Of the dataset, not of the tokenizer."""
        return self.index.fingerprint

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made the tokens."""
        return load_tokenizer(self.directory, self.index.tokenizer, lossy=self.index.lossy)

    def read_rows(self, starts: Sequence[int], *, length: int) -> NDArray[Any]:
        """Rows [n, length] of tokens [start, start + length) for each start, in the dataset's own narrow type."""
        out = np.empty((len(starts), length), dtype=self._dtype)
        shard_starts, chunk_tokens, opened = self._starts, self._chunk_tokens, self._open  # this loop is the hot one
        for number, start in enumerate(starts):
            index = bisect_right(shard_starts, start) - 1
            chunk, offset = divmod(start - shard_starts[index], chunk_tokens)
            if offset + length > chunk_tokens or start + length > shard_starts[index + 1]:
                out[number] = self.read(start, start + length)
                continue
            shard = opened.get(index) or self._shard(index)
            base = shard.bases[chunk] + offset
            out[number] = shard.tokens[base : base + length]
        return out

    def read_into(self, out: NDArray[np.int64], *, start: int) -> None:
        """Fill `out` [n] with tokens [start, start + n) of the split, across chunk and shard borders."""
        assert 0 <= start <= self.record.tokens - len(out)
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
        number = bisect_right(self._starts, position) - 1
        shard = self._open.get(number) or self._shard(number)
        chunk, offset = divmod(position - self._starts[number], self._chunk_tokens)
        return shard.chunk(chunk)[offset:]

    def _locate(self, position: int) -> tuple[int, int, int, int]:
        """(shard, chunk, first token of the chunk, its length) around a token of the split."""
        shard = bisect_right(self._starts, position) - 1
        chunk = (position - self._starts[shard]) // self._chunk_tokens
        chunk_start = self._starts[shard] + chunk * self._chunk_tokens
        return shard, chunk, chunk_start, len(self._shard(shard).chunk(chunk))

    def _open_shard(self, number: int) -> OpenShard:
        record = self.record.shards[number]
        open_shard = partial(OpenShard, record=record, dtype=self._dtype, chunk_tokens=self._chunk_tokens)
        if self._cache:
            return self._cache.opened(number, open_shard)
        return open_shard(Path(self.directory) / record.name)

    def _shard(self, number: int) -> OpenShard:
        shard = self._open.get(number)
        if shard is None:
            shard = self._open[number] = self._open_shard(number)
            if len(self._open) > OPEN_SHARDS:
                del self._open[next(iter(self._open))]  # the one opened first
        return shard
