"""Which source a global sample comes from, and its number within that source: pure, O(1) memory, resumable anywhere.

Samples are dealt in blocks of `BLOCK_ROWS`. Every block holds a fixed quota of each source in proportion to its
weight, in an order keyed by (key, block): shares are exact over every block, never drifting, and no counter is kept.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.errors import DataError
from data_pipeline.read.assignment import Indices, Permutation, round_keys

BLOCK_ROWS = 4096


class Dealt(NamedTuple):
    """For each sample [n]: its source, and its running number among that source's samples."""

    sources: Indices
    numbers: Indices


def quotas(weights: Sequence[float], *, total: int) -> NDArray[np.int64]:
    """Whole shares of `total` in proportion to the weights, by largest remainder; their sum is `total`."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    shares = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - shares), kind="stable")
    shares[by_remainder[: total - int(shares.sum())]] += 1
    return shares


class Mixture:
    """Weighted dealing of samples to sources; `key` names the draw, e.g. (seed, data_pass)."""

    def __init__(self, weights: Sequence[float], *, key: tuple[int | str, ...]) -> None:
        self.shares = quotas(weights, total=BLOCK_ROWS)
        if any(share == 0 < weight for share, weight in zip(self.shares, weights, strict=True)):
            raise DataError(f"data.sources: a weight is below 1/{BLOCK_ROWS} of the sum {sum(weights):g}; raise it")
        self._key = key
        self._ends = np.cumsum(self.shares)
        self._blocks: dict[int, Dealt] = {}

    def __call__(self, samples: Indices) -> Dealt:
        """Source and running number of each global sample [n]; a source's samples are numbered in their order."""
        blocks, places = np.divmod(samples, BLOCK_ROWS)
        dealt = Dealt(np.empty_like(samples), np.empty_like(samples))
        for block in np.unique(blocks).tolist():
            inside = blocks == block
            sources, ranks = self._block(block)
            chosen = sources[places[inside]]
            dealt.sources[inside] = chosen
            dealt.numbers[inside] = block * self.shares[chosen] + ranks[places[inside]]
        return dealt

    def count(self, samples: int) -> NDArray[np.int64]:
        """How many of the first `samples` samples came from each source."""
        blocks, rest = divmod(samples, BLOCK_ROWS)
        return blocks * self.shares + np.bincount(self._block(blocks).sources[:rest], minlength=len(self.shares))

    def _block(self, block: int) -> Dealt:
        """Sources of one block's places, and the rank of each place among those of its source."""
        if block not in self._blocks:
            order = Permutation(BLOCK_ROWS, keys=round_keys("mixture", *self._key, block))(np.arange(BLOCK_ROWS))
            sources = np.searchsorted(self._ends, order, side="right").astype(np.int64)
            ranks = np.empty_like(sources)
            for source, share in enumerate(self.shares.tolist()):
                ranks[sources == source] = np.arange(share)
            self._blocks = {block: Dealt(sources, ranks)}  # the last one used: batches come in order
        return self._blocks[block]


class MixtureChange(NamedTuple):
    """From global sample `first_sample` on, sources are mixed by `weights`; 0 leaves a source out."""

    first_sample: int
    weights: tuple[float, ...]


class MixtureSchedule:
    """Weights that change at given samples; each source goes on where it was, so nothing is seen twice in an epoch."""

    def __init__(self, changes: Sequence[MixtureChange], *, key: tuple[int | str, ...]) -> None:
        assert changes[0].first_sample == 0
        self._begins = np.array([change.first_sample for change in changes], dtype=np.int64)
        self._mixtures = [Mixture(change.weights, key=(*key, number)) for number, change in enumerate(changes)]
        used = [
            mixture.count(end - begin)
            for mixture, begin, end in zip(self._mixtures, self._begins[:-1], self._begins[1:], strict=False)
        ]
        self._used = np.cumsum([np.zeros(len(changes[0].weights), dtype=np.int64), *used], axis=0)

    def __call__(self, samples: Indices) -> Dealt:
        """Source and running number of each global sample [n]."""
        dealt = Dealt(np.empty_like(samples), np.empty_like(samples))
        stretches = np.searchsorted(self._begins, samples, side="right") - 1
        for stretch in np.unique(stretches).tolist():
            inside = stretches == stretch
            sources, numbers = self._mixtures[stretch](samples[inside] - self._begins[stretch])
            dealt.sources[inside] = sources
            dealt.numbers[inside] = numbers + self._used[stretch][sources]
        return dealt


class LaneGroup(NamedTuple):
    """Consecutive lanes that all read one source."""

    source: int
    first: int
    size: int


def lane_groups(weights: Sequence[float], *, lanes: int) -> list[LaneGroup]:
    """Lanes by weight, at least one to each source that has any; DataError when there are too few."""
    used = np.array(weights) > 0
    if lanes < used.sum():
        raise DataError(f"{lanes} lanes cannot read {used.sum()} data sources; raise global_batch_size")
    sizes = used + quotas(weights, total=lanes - int(used.sum()))
    firsts = [0, *accumulate(sizes.tolist())]
    return [LaneGroup(source, firsts[source], size) for source, size in enumerate(sizes.tolist()) if size]
