"""From a step's rows to (source, row of its split): lanes or shuffle, one source or a mixture. Numpy only."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.assignment import Indices, lane_rows, num_rows, shuffled_rows
from data_pipeline.errors import DataError
from data_pipeline.mixture import Dealt, MixtureChange, MixtureSchedule, lane_groups


class Placed(NamedTuple):
    """Where each of a step's rows [n] lies; `starts` with lanes only."""

    sources: Indices
    rows: Indices
    starts: NDArray[np.bool_] | None


class TrainOrder:
    """The global order of training rows over weighted sources: a pure function of the seed and what is asked."""

    def __init__(self, *, weights: Sequence[float], num_tokens: Sequence[int], names: Sequence[str], seed: int) -> None:
        self._weights, self._num_tokens, self._names, self._seed = weights, num_tokens, names, seed

    def rows(
        self,
        *,
        sequence_length: int,
        data_pass: int,
        first_sample: int,
        rows: range,
        lanes: int | None,
        mixture: Sequence[MixtureChange] | None = None,
    ) -> Placed:
        """Source and row of each of `rows`; DataError when a source is too short for one row (or one row per lane)."""
        wanted = np.arange(rows.start, rows.stop, rows.step, dtype=np.int64)
        per_epoch = [num_rows(num_tokens=tokens, sequence_length=sequence_length) for tokens in self._num_tokens]
        changes = tuple(mixture or [MixtureChange(0, tuple(self._weights))])
        if lanes is None:
            dealt = self._deal(wanted + first_sample, changes, data_pass)
            return self._shuffled(dealt, per_epoch, data_pass, sequence_length)
        return self._lanes(wanted, per_epoch, first_sample, lanes, sequence_length, changes)

    def _shuffled(self, dealt: Dealt, per_epoch: list[int], data_pass: int, length: int) -> Placed:
        placed = np.empty_like(dealt.sources)
        for source in np.unique(dealt.sources).tolist():
            self._require(per_epoch[source], 1, source, length)
            inside = dealt.sources == source
            placed[inside] = shuffled_rows(
                dealt.numbers[inside],
                rows_per_epoch=per_epoch[source],
                key=("rows", self._seed, source, data_pass),
            )
        return Placed(dealt.sources, placed, None)

    def _deal(self, samples: Indices, changes: tuple[MixtureChange, ...], data_pass: int) -> Dealt:
        if len(self._weights) == 1:
            return Dealt(sources=np.zeros_like(samples), numbers=samples)
        return MixtureSchedule(changes, key=(self._seed, data_pass))(samples)

    def _lanes(
        self,
        wanted: Indices,
        per_epoch: list[int],
        first_sample: int,
        lanes: int,
        length: int,
        changes: tuple[MixtureChange, ...],
    ) -> Placed:
        placed = Placed(np.empty_like(wanted), np.empty_like(wanted), np.empty(len(wanted), dtype=np.bool_))
        assert placed.starts is not None
        begin, weights = next(change for change in reversed(changes) if change.first_sample <= first_sample)
        for group in lane_groups(weights, lanes=lanes):
            inside = (wanted >= group.first) & (wanted < group.first + group.size)
            if not inside.any():
                continue
            self._require(per_epoch[group.source], group.size, group.source, length)
            step = first_sample // lanes
            found = lane_rows(
                step * group.size,
                wanted[inside] - group.first,
                lanes=group.size,
                rows_per_epoch=per_epoch[group.source],
            )
            placed.sources[inside] = group.source
            placed.rows[inside], placed.starts[inside] = found.rows, found.starts | (first_sample == begin)
        return placed

    def _require(self, there: int, needed: int, source: int, length: int) -> None:
        if there >= needed:
            return
        name, tokens = self._names[source], self._num_tokens[source]
        what = "one row" if needed == 1 else f"a row for each of {needed} lanes"
        raise DataError(
            f"{name}: sequence_length {length} needs {needed * length + 1} tokens for {what}; it has {tokens}"
        )
