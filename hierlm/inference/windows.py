"""Which tokens of a split are read together and which of them are scored.

Shapes: n windows or lanes, T sequence_length.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from data_pipeline.read.assignment import EvaluationLanes
from data_pipeline.read.loader import IGNORED_TARGET, EvaluationRows, Split
from hierlm.nn.inputs import NO_INPUTS, Inputs
from hierlm.train.loaded_inputs import inputs_of


class Pass(NamedTuple):
    """What a model scores at once."""

    tokens: Tensor  # int64 [n, T]
    targets: Tensor  # int64 [n, T]; IGNORED_TARGET where the token is context, was scored before, or is padding
    continues: bool  # each row goes on where the same row of the pass before ended
    inputs: Inputs = NO_INPUTS  # what else the model reads of these rows


class Passes(Protocol):
    """A whole split, every token but its first a target exactly once."""

    sequence_length: int

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Pass]: ...


class SlidingWindows:
    """Windows of T tokens, each `stride` further: the first scores all its targets, the others their last `stride`.

    So every token but the T first has at least T - stride tokens of context in its window, as in the sliding-window
    evaluation of Press et al. ("Shortformer", 2012.15832, section 2; Baevski & Auli, 1809.10853). With stride = T the
    windows do not overlap.
    """

    def __init__(
        self,
        split: Split,
        *,
        sequence_length: int,
        stride: int,
        windows_per_pass: int,
        document_starts: bool = False,
    ) -> None:
        assert 1 <= stride <= sequence_length
        self._split, self._num_targets = split, EvaluationRows(split, sequence_length=sequence_length).num_targets
        self.sequence_length = min(sequence_length, self._num_targets)
        self._stride, self._windows_per_pass = stride, windows_per_pass
        self._wants_document_starts = document_starts

    @property
    def num_windows(self) -> int:
        beyond_the_first = max(self._num_targets - self.sequence_length, 0)
        return 1 + -(-beyond_the_first // self._stride)

    def __len__(self) -> int:
        return (self.num_windows + self._windows_per_pass - 1) // self._windows_per_pass

    def __iter__(self) -> Iterator[Pass]:
        for first in range(0, self.num_windows, self._windows_per_pass):
            yield self._read(range(first, min(first + self._windows_per_pass, self.num_windows)))

    def _read(self, windows: Sequence[int]) -> Pass:
        length = self.sequence_length
        packed = np.zeros((len(windows), length + 1), dtype=np.int64)
        is_scored = np.zeros((len(windows), length), dtype=np.bool_)
        starts = np.zeros_like(is_scored)
        for row, window in enumerate(windows):
            start = window * self._stride
            size = min(length, self._num_targets - start)
            self._split.read_into(packed[row, : size + 1], start=start)
            is_scored[row, length - self._stride if window else 0 : size] = True
            if self._wants_document_starts:
                starts[row, :size] = self._split.document_starts(start, start + size)
        tokens, targets = torch.from_numpy(packed[:, :-1].copy()), torch.from_numpy(packed[:, 1:].copy())
        targets.masked_fill_(~torch.from_numpy(is_scored), IGNORED_TARGET)
        inputs = inputs_of(torch.from_numpy(starts)) if self._wants_document_starts else NO_INPUTS
        return Pass(tokens, targets, continues=False, inputs=inputs)


class CarriedLanes:
    """Rows of T tokens in so many contiguous lanes, for a model that carries its memory along each of them."""

    def __init__(self, split: Split, *, sequence_length: int, num_lanes: int, document_starts: bool = False) -> None:
        num_targets = EvaluationRows(split, sequence_length=sequence_length).num_targets
        self.sequence_length = min(sequence_length, num_targets)
        self._rows = EvaluationRows(split, sequence_length=self.sequence_length, document_starts=document_starts)
        self._lanes = EvaluationLanes(len(self._rows), lanes=min(num_lanes, len(self._rows)))

    def __len__(self) -> int:
        return self._lanes.num_steps

    def __iter__(self) -> Iterator[Pass]:
        lanes = np.arange(self._lanes.lanes)
        for step in range(self._lanes.num_steps):
            batch = self._rows.read(self._lanes.rows(step, lanes).tolist())
            yield Pass(batch.tokens, batch.targets, step > 0, inputs_of(batch.document_starts))
