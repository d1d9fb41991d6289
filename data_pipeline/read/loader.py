"""Batches for training and evaluation. The only file of this package that imports torch.

Shapes: n rows read by this rank, T sequence_length. A row is T+1 consecutive tokens: inputs and their next tokens.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipeline.config import SourceConfig
from data_pipeline.errors import DataError
from data_pipeline.read.cursor import Dealing
from data_pipeline.read.mixture import MixtureChange
from data_pipeline.read.rows import Request, TrainOrder
from data_pipeline.read.split import Split, open_split

__all__ = [
    "Batch",
    "EvaluationRows",
    "MixtureChange",
    "Prefetcher",
    "Request",
    "Split",
    "TrainRows",
    "evaluation_rows",
    "open_split",
]

IGNORED_TARGET = -100  # what torch's cross entropy leaves out
_POLL_SECONDS = 0.1


class Batch(NamedTuple):
    """One rank's rows of a step."""

    tokens: Tensor  # int64 [n, T]
    targets: Tensor  # int64 [n, T]
    starts: Tensor | None = None  # bool [n], lanes only: the row begins a new stream, its memory must be reset
    document_starts: Tensor | None = None  # bool [n, T], on request: the token is the first of a document


class EvaluationBatch(NamedTuple):
    """Rows in stream order; targets past the end of the split are IGNORED_TARGET."""

    tokens: Tensor  # int64 [n, T]
    targets: Tensor  # int64 [n, T]
    valid: Tensor  # int64 [n]: number of targets that count
    document_starts: Tensor | None = None  # bool [n, T], on request: the token is the first of a document


class TrainRows:
    """Training rows of weighted sources; what a sample is depends on (seed, data_pass, sample) alone.

    Not on the order of the sources either: they are dealt in that of their fingerprints.
    """

    def __init__(
        self, sources: Sequence[SourceConfig], *, seed: int, split: str = "train", document_starts: bool = False
    ) -> None:
        self.splits = [open_split(source.path, split) for source in sources]
        self._sources, self._seed = sources, seed
        self._wants_document_starts = document_starts
        self.deal_by("fingerprint")

    def deal_by(self, dealing: Dealing) -> None:
        """Before any row is read: what the draw tells sources by; checkpoints say what theirs was."""
        self.dealing = dealing
        keys = [(split.fingerprint, source.weight) for split, source in zip(self.splits, self._sources, strict=True)]
        order = sorted(range(len(keys)), key=keys.__getitem__) if dealing == "fingerprint" else None
        # two, because each remembers what it dealt last, and rows are read by another thread than asks for shares
        self._order, self._shares = (
            TrainOrder(
                weights=[source.weight for source in self._sources],
                num_tokens=[opened.num_tokens for opened in self.splits],
                names=[source.path for source in self._sources],
                seed=self._seed,
                order=order,
            )
            for _ in range(2)
        )

    def read(
        self,
        *,
        sequence_length: int,
        data_pass: int,
        first_sample: int,
        rows: range,
        lanes: int | None = None,
        mixture: tuple[MixtureChange, ...] | None = None,
    ) -> Batch:
        """Rows `rows` of the step that begins at global sample `first_sample`.

        Shuffled without `lanes`; with `lanes` (the global batch size) row r is lane r, which continues its own stream.
        """
        return self(Request(sequence_length, data_pass, first_sample, rows, lanes, mixture))

    def tokens_per_byte(self, request: Request) -> float:
        """Of the rows a request names: their tokens over the bytes those stand for, by the means of their sources."""
        drawn = zip(self._shares.drawn(request).tolist(), self.splits, strict=True)
        # exact, so that neither the order of the sources nor their number moves the last digit
        num_bytes = sum(count * Fraction(split.source_bytes, split.num_tokens) for count, split in drawn)
        return float(len(request.rows) / num_bytes)

    def __call__(self, request: Request) -> Batch:
        """The rows a request names; DataError when a source is too short for them."""
        length, where = request.sequence_length, self._order.rows(request)
        tokens = np.empty((len(request.rows), length), dtype=np.int64)
        targets = np.empty_like(tokens)
        for source, split in enumerate(self.splits):
            inside = np.flatnonzero(where.sources == source)
            if len(inside):
                rows = split.read_rows((where.rows[inside] * length).tolist(), length=length + 1)
                tokens[inside], targets[inside] = rows[:, :-1], rows[:, 1:]
        starts = None if where.starts is None else torch.from_numpy(where.starts)
        documents = self._document_starts(where.sources, where.rows, length)
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), starts, documents)

    def _document_starts(self, sources: NDArray[np.int64], rows: NDArray[np.int64], length: int) -> Tensor | None:
        if not self._wants_document_starts:
            return None
        masks = [
            self.splits[source].document_starts(row * length, (row + 1) * length)
            for source, row in zip(sources.tolist(), rows.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(masks))


def _inputs_and_targets(packed: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    whole = torch.from_numpy(packed)
    return whole[:, :-1].clone(), whole[:, 1:].clone()  # of one row, `contiguous` would be two views of the same memory


class EvaluationRows:
    """A split as rows in order, the last one partial: every token but the first is a target exactly once."""

    def __init__(self, split: Split, *, sequence_length: int, document_starts: bool = False) -> None:
        if split.num_tokens < 2:
            raise DataError(
                f"{split.directory}: split {split.name} has {split.num_tokens} tokens; evaluation needs two"
            )
        self.split = split
        self.sequence_length = sequence_length
        self._wants_document_starts = document_starts

    def __len__(self) -> int:
        return (self.num_targets + self.sequence_length - 1) // self.sequence_length

    @property
    def num_targets(self) -> int:
        return self.split.num_tokens - 1

    def read(self, rows: Sequence[int]) -> EvaluationBatch:
        """Any rows by number; a number outside [0, len) gives a row of padding, so ranks can share a batch evenly."""
        length = self.sequence_length
        packed = np.zeros((len(rows), length + 1), dtype=np.int64)
        valid = np.array([self._num_valid(row) for row in rows], dtype=np.int64)
        for out, row, count in zip(packed, rows, valid.tolist(), strict=True):
            if count:
                self.split.read_into(out[: count + 1], start=row * length)
        tokens, targets = _inputs_and_targets(packed)
        padding = torch.arange(length)[None, :] >= torch.from_numpy(valid)[:, None]
        documents = self._document_starts(rows, valid.tolist()) if self._wants_document_starts else None
        scored = targets.masked_fill_(padding, IGNORED_TARGET)
        return EvaluationBatch(tokens, scored, torch.from_numpy(valid), documents)

    def _document_starts(self, rows: Sequence[int], valid: Sequence[int]) -> Tensor:
        """None where a row is padding."""
        masks = np.zeros((len(rows), self.sequence_length), dtype=np.bool_)
        for mask, row, count in zip(masks, rows, valid, strict=True):
            first = row * self.sequence_length
            mask[:count] = self.split.document_starts(first, first + count) if count else False
        return torch.from_numpy(masks)

    def _num_valid(self, row: int) -> int:
        if row < 0:
            return 0
        return max(min(self.sequence_length, self.num_targets - row * self.sequence_length), 0)


def evaluation_rows(split: Split, *, sequence_length: int) -> EvaluationRows:
    """The rows of one evaluation of `split`."""
    return EvaluationRows(split, sequence_length=sequence_length)


class Prefetcher:
    """Reads batches in order on a background thread, at most `depth` ahead; depth 0 reads when asked.

    An error of the reader is raised where the batch was due. Iterate it, and `close()` it or use it as a context.
    With a CUDA `device` tokens and targets come there, copied while the steps before are computed; masks stay here.
    """

    def __init__(
        self,
        read: Callable[[Request], Batch],
        requests: Iterator[Request],
        depth: int,
        *,
        device: torch.device | None = None,
    ) -> None:
        self.wait_seconds = 0.0  # of the last batch
        self._read, self._requests = read, requests
        self._copies = _CopiesAhead(device) if device is not None and device.type == "cuda" else None
        self._closed = threading.Event()
        self._ready: queue.Queue[Batch | _OnTheWay | BaseException] = queue.Queue(maxsize=max(depth, 1))
        self._exhausted: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="data-prefetch", daemon=True) if depth else None
        if self._thread:
            self._thread.start()

    def __iter__(self) -> "Prefetcher":
        return self

    def __next__(self) -> Batch:
        began = time.perf_counter()
        try:
            item = self._take() if self._thread else self._next_item()
        finally:
            self.wait_seconds = time.perf_counter() - began
        if isinstance(item, BaseException):
            self._exhausted = item
            raise item
        return item.arrived() if isinstance(item, _OnTheWay) else item

    def close(self) -> None:
        """Stop the thread and drop what it read ahead."""
        self._closed.set()
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(timeout=10)

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> "Batch | _OnTheWay | BaseException":
        if self._exhausted is not None:
            return self._exhausted
        while True:
            try:
                return self._ready.get(timeout=_POLL_SECONDS)
            except queue.Empty:
                if self._closed.is_set():
                    raise RuntimeError("the prefetcher is closed") from None

    def _next_item(self) -> "Batch | _OnTheWay | BaseException":
        """The next batch, or what ends the sequence: StopIteration or the reader's error."""
        try:
            batch = self._read(next(self._requests))
            return batch if self._copies is None else self._copies.begin(batch)
        except BaseException as error:
            return error

    def _work(self) -> None:
        item: Batch | _OnTheWay | BaseException | None = None
        while not isinstance(item, BaseException) and not self._closed.is_set():
            item = self._next_item()
            self._offer(item)

    def _offer(self, item: "Batch | _OnTheWay | BaseException") -> None:
        while not self._closed.is_set():
            try:
                return self._ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue


class _OnTheWay(NamedTuple):
    """A batch whose tokens and targets are being copied to a GPU."""

    batch: Batch
    copied: torch.cuda.Event

    def arrived(self) -> Batch:
        """The batch, for the stream this thread works on, which waits for the copy; this thread does not."""
        stream = torch.cuda.current_stream(self.batch.tokens.device)
        stream.wait_event(self.copied)
        for tensor in (self.batch.tokens, self.batch.targets):
            tensor.record_stream(stream)  # its memory belongs to the stream of the copies
        return self.batch


class _CopiesAhead:
    """Copies to a GPU on a stream of their own, so that none waits for the step that is being computed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, batch: Batch) -> _OnTheWay:
        """Returns at once: only from pinned memory does a copy run beside anything else."""
        with torch.cuda.stream(self._stream):
            tokens, targets = (
                tensor.pin_memory().to(self._device, non_blocking=True) for tensor in (batch.tokens, batch.targets)
            )
            return _OnTheWay(batch._replace(tokens=tokens, targets=targets), self._stream.record_event())
