"""From a step's rows to (source, row of its split): lanes or shuffle, one source or a mixture. Numpy only."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.read.assignment import Indices, lane_rows, num_rows, shuffled_rows
from data_pipeline.read.mixture import BLOCK_ROWS, Dealt, LaneGroup, MixtureChange, MixtureSchedule, lane_groups


class Request(NamedTuple):
    """Which rows of a step one rank reads; row r is global sample first_sample + r."""

    sequence_length: int
    data_pass: int
    first_sample: int
    rows: range
    lanes: int | None = None  # the global batch size, where rows are contiguous lanes
    mixture: tuple[MixtureChange, ...] | None = None  # all of this data pass so far; None: the sources' own weights

    @property
    def numbers(self) -> Indices:
        """The rows as an array [n]."""
        return np.arange(self.rows.start, self.rows.stop, self.rows.step, dtype=np.int64)


class Placed(NamedTuple):
    """Where each of a step's rows [n] lies; `starts` with lanes only."""

    sources: Indices
    rows: Indices
    starts: NDArray[np.bool_] | None


class TrainOrder:
    """The global order of training rows over weighted sources: a pure function of the seed and the request.

    Inside, a source is its place in `order`: draws are keyed by it, and requests and answers translated.
    """

    def __init__(
        self,
        *,
        weights: Sequence[float],
        num_tokens: Sequence[int],
        names: Sequence[str],
        seed: int,
        order: Sequence[int] | None = None,
    ) -> None:
        """`order`: the sources as they are dealt; None: as they are named."""
        dealt = list(range(len(weights)) if order is None else order)
        self._order, self._seed = np.array(dealt), seed
        self._num_tokens = [num_tokens[source] for source in dealt]
        self._names = [names[source] for source in dealt]
        self._own_mixture = (MixtureChange(0, tuple(weights)),)
        self._schedule = lru_cache(maxsize=2)(self._new_schedule)
        self._block = lru_cache(maxsize=2)(self._new_block)

    def rows(self, request: Request) -> Placed:
        """Source and row of each row [n]; DataError when a source is too short for one row (or one row per lane)."""
        placed = self._shuffled(request) if request.lanes is None else self._in_lanes(request, request.lanes)
        return placed._replace(sources=self._order[placed.sources])

    def drawn(self, request: Request) -> Indices:
        """How many of the request's rows come from each source [sources]."""
        if request.lanes is None:
            sources = self._deal(request.first_sample + request.numbers, request).sources
        else:
            groups, _ = self._groups(request, request.lanes)
            sources = np.repeat([group.source for group in groups], [group.size for group in groups])[request.numbers]
        return np.bincount(self._order[sources], minlength=len(self._order))

    def _shuffled(self, request: Request) -> Placed:
        """Found a block of samples at a time: batches come in order, and a block costs little more than a batch."""
        samples = request.first_sample + request.numbers
        blocks, places = np.divmod(samples, BLOCK_ROWS)
        sources, rows = np.empty_like(samples), np.empty_like(samples)
        for block in sorted(set(blocks.tolist())):
            inside = blocks == block
            found = self._block(block, request._replace(first_sample=0, rows=range(0)))
            sources[inside], rows[inside] = found.sources[places[inside]], found.rows[places[inside]]
        return Placed(sources, rows, None)

    def _new_block(self, block: int, request: Request) -> Placed:
        dealt = self._deal(np.arange(block * BLOCK_ROWS, (block + 1) * BLOCK_ROWS), request)
        rows = np.empty_like(dealt.sources)
        for source in np.unique(dealt.sources).tolist():
            inside = dealt.sources == source
            rows[inside] = shuffled_rows(
                dealt.numbers[inside],
                rows_per_epoch=self._rows_per_epoch(source, request, needed=1),
                key=("rows", self._seed, source, request.data_pass),
            )
        return Placed(dealt.sources, rows, None)

    def _deal(self, samples: Indices, request: Request) -> Dealt:
        if len(self._num_tokens) == 1:
            return Dealt(sources=np.zeros_like(samples), numbers=samples)
        return self._schedule(self._mixture(request), request.data_pass)(samples)

    def _mixture(self, request: Request) -> tuple[MixtureChange, ...]:
        named = request.mixture or self._own_mixture
        return tuple(MixtureChange(c.first_sample, tuple(c.weights[source] for source in self._order)) for c in named)

    def _new_schedule(self, mixture: tuple[MixtureChange, ...], data_pass: int) -> MixtureSchedule:
        return MixtureSchedule(mixture, key=(self._seed, data_pass))

    def _in_lanes(self, request: Request, lanes: int) -> Placed:
        sources, rows = np.empty_like(request.numbers), np.empty_like(request.numbers)
        starts = np.empty(len(rows), dtype=np.bool_)
        groups, change = self._groups(request, lanes)
        for group in groups:
            inside = (request.numbers >= group.first) & (request.numbers < group.first + group.size)
            if inside.any():
                sources[inside] = group.source
                rows[inside], starts[inside] = self._group_rows(request, group, request.numbers[inside], lanes)
        return Placed(sources, rows, starts | (request.first_sample == change.first_sample))

    def _groups(self, request: Request, lanes: int) -> tuple[list[LaneGroup], MixtureChange]:
        """Which lanes read which source, and since when."""
        mixture = self._mixture(request)
        change = next(change for change in reversed(mixture) if change.first_sample <= request.first_sample)
        return lane_groups(change.weights, lanes=lanes), change

    def _group_rows(
        self, request: Request, group: LaneGroup, numbers: Indices, lanes: int
    ) -> tuple[Indices, NDArray[np.bool_]]:
        return lane_rows(
            request.first_sample // lanes * group.size,
            numbers - group.first,
            lanes=group.size,
            rows_per_epoch=self._rows_per_epoch(group.source, request, needed=group.size),
        )

    def _rows_per_epoch(self, source: int, request: Request, *, needed: int) -> int:
        length, tokens = request.sequence_length, self._num_tokens[source]
        there = num_rows(num_tokens=tokens, sequence_length=length)
        if there < needed:
            what = "one row" if needed == 1 else f"a row for each of {needed} lanes"
            raise DataError(
                f"{self._names[source]}: sequence_length {length} needs {needed * length + 1} tokens for {what}, "
                f"it has {tokens}"
            )
        return there
