"""Rows and batches for training and evaluation. This file and prefetch.py alone import torch in this package.

Shapes: n rows read by this rank, T sequence_length. A row is T+1 consecutive tokens: inputs and their next tokens.
"""

from collections.abc import Callable, Sequence
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
    "Request",
    "Split",
    "TrainRows",
    "evaluation_rows",
    "open_split",
]

IGNORED_TARGET = -100  # what torch's cross entropy leaves out
NO_PASS = -1
"""Where rows are read for an evaluation; with it, what is drawn for a sample is the same in every evaluation."""


class Rows(NamedTuple):
    """Rows of the data as they are read: what a model is asked of them is for others to say."""

    tokens: Tensor  # int64 [n, T + 1]: neighbouring rows share a token
    samples: Tensor  # int64 [n]: their numbers in the data pass, or in the split that is evaluated
    data_pass: int = NO_PASS
    valid: Tensor | None = None  # int64 [n]: how many of the last T are there; None: all
    starts: Tensor | None = None  # bool [n], lanes only: the row begins a new stream
    document_starts: Tensor | None = None  # bool [n, T], on request: the token is the first of a document


def next_tokens(rows: Rows) -> tuple[Tensor, Tensor]:
    """The first T tokens, and as targets the last T; IGNORED_TARGET past the end of a row that is not full."""
    # of one row, `contiguous` would be two views of the same memory
    tokens, targets = rows.tokens[:, :-1].clone(), rows.tokens[:, 1:].clone()
    if rows.valid is not None:
        targets.masked_fill_(torch.arange(targets.shape[1])[None, :] >= rows.valid[:, None], IGNORED_TARGET)
    return tokens, targets


class Batch(NamedTuple):
    """One rank's rows of a step."""

    tokens: Tensor  # int64 [n, T]
    targets: Tensor  # int64 [n, T]
    starts: Tensor | None = None  # bool [n], lanes only: the row begins a new stream, its memory must be reset
    document_starts: Tensor | None = None  # bool [n, T], on request: the token is the first of a document

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """With tokens and targets moved; masks stay."""
        return self._replace(tokens=move(self.tokens), targets=move(self.targets))

    def on_device(self) -> list[Tensor]:
        """What `moved` moves."""
        return [self.tokens, self.targets]


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
        """The rows a request names, each token with the next as its target; errors as in `rows`."""
        rows = self.rows(request)
        return Batch(*next_tokens(rows), rows.starts, rows.document_starts)

    def rows(self, request: Request) -> Rows:
        """The rows a request names; DataError when a source is too short for them."""
        length, where = request.sequence_length, self._order.rows(request)
        tokens = np.empty((len(request.rows), length + 1), dtype=np.int64)
        for source, split in enumerate(self.splits):
            inside = np.flatnonzero(where.sources == source)
            if len(inside):
                tokens[inside] = split.read_rows((where.rows[inside] * length).tolist(), length=length + 1)
        starts = None if where.starts is None else torch.from_numpy(where.starts)
        documents = self._document_starts(where.sources, where.rows, length)
        samples = torch.from_numpy(request.first_sample + request.numbers)
        return Rows(torch.from_numpy(tokens), samples, request.data_pass, starts=starts, document_starts=documents)

    def _document_starts(self, sources: NDArray[np.int64], rows: NDArray[np.int64], length: int) -> Tensor | None:
        if not self._wants_document_starts:
            return None
        masks = [
            self.splits[source].document_starts(row * length, (row + 1) * length)
            for source, row in zip(sources.tolist(), rows.tolist(), strict=True)
        ]
        return torch.from_numpy(np.stack(masks))


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
        """Any rows by number, each token with the next as its target; as in `rows`."""
        read = self.rows(rows)
        assert read.valid is not None
        return EvaluationBatch(*next_tokens(read), read.valid, read.document_starts)

    def rows(self, rows: Sequence[int]) -> Rows:
        """Any rows by number; a number outside [0, len) gives a row of padding, so ranks can share a batch evenly."""
        length = self.sequence_length
        packed = np.zeros((len(rows), length + 1), dtype=np.int64)
        valid = np.array([self._num_valid(row) for row in rows], dtype=np.int64)
        for out, row, count in zip(packed, rows, valid.tolist(), strict=True):
            if count:
                self.split.read_into(out[: count + 1], start=row * length)
        documents = self._document_starts(rows, valid.tolist()) if self._wants_document_starts else None
        samples = torch.tensor([*rows], dtype=torch.int64)
        return Rows(torch.from_numpy(packed), samples, valid=torch.from_numpy(valid), document_starts=documents)

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
