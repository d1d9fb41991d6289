"""Which row of a split a global sample is: pure functions of (key, index), O(1) memory at any corpus size.

A row is T+1 consecutive tokens, stride T: row r covers tokens [r*T, r*T + T], so every token but the first of the
split is a target exactly once per epoch; the remainder is the last (num_tokens - 1) mod T tokens.

The shuffle is a Feistel network over Z_a x Z_a with a^2 >= n (Black & Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002, section on generalised Feistel), restricted to [0, n) by cycle walking; since a^2 < n + 2*sqrt(n) + 1
a second walk is rare.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
NUM_ROUNDS = 6


def num_rows(*, num_tokens: int, sequence_length: int) -> int:
    """Whole rows of T inputs and T targets in a split."""
    return max(num_tokens - 1, 0) // sequence_length


def round_keys(*names: int | str) -> NDArray[np.uint64]:
    """Keys of the network from anything that names the draw, e.g. (seed, source, data_pass, epoch)."""
    digest = hashlib.sha512("/".join(str(name) for name in names).encode()).digest()
    return np.frombuffer(digest, dtype="<u8")[:NUM_ROUNDS].astype(np.uint64)


def _scrambled(values: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) as round function; wraps modulo 2^64."""
    mixed = values + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class Permutation:
    """A keyed permutation of [0, size) that is evaluated point by point."""

    def __init__(self, size: int, *, keys: NDArray[np.uint64]) -> None:
        assert 0 < size < 2**62
        self.size = size
        self._keys = keys
        self._side = np.uint64(math.isqrt(size - 1) + 1)

    def __call__(self, indices: Indices) -> Indices:
        """Images of `indices` [n], each in [0, size)."""
        image = self._network(indices.astype(np.uint64))
        outside = image >= self.size
        while outside.any():
            image[outside] = self._network(image[outside])
            outside = image >= self.size
        return image.astype(np.int64)

    def _network(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        right, left = np.divmod(values, self._side)
        for key in self._keys:
            left, right = right, (left + _scrambled(right, key) % self._side) % self._side
        return right * self._side + left


def shuffled_rows(samples: Indices, *, rows_per_epoch: int, key: tuple[int | str, ...]) -> Indices:
    """Row of each global sample [n]: every epoch is its own permutation of all rows, keyed by `key` and the epoch."""
    epochs, positions = np.divmod(samples, rows_per_epoch)
    rows = np.empty_like(samples)
    for epoch in np.unique(epochs).tolist():
        inside = epochs == epoch
        permutation = Permutation(rows_per_epoch, keys=round_keys(*key, epoch))
        rows[inside] = permutation(positions[inside])
    return rows


class LaneRows(NamedTuple):
    """Rows of the lanes of one step, and whether each begins a new stream."""

    rows: Indices
    starts: NDArray[np.bool_]


def lane_rows(first_sample: int, lanes_read: Indices, *, lanes: int, rows_per_epoch: int) -> LaneRows:
    """Row of each lane in `lanes_read` [n] at the step whose row 0 is global sample `first_sample`.

    Lane b of B owns the stretch of rows_per_epoch // B rows that begins at b times that; it reads it front to back,
    once per epoch. The last rows_per_epoch mod B rows of the split are the stated remainder.
    """
    stretch = rows_per_epoch // lanes
    assert stretch > 0
    inside = first_sample // lanes % stretch
    return LaneRows(rows=lanes_read * stretch + inside, starts=np.full(len(lanes_read), inside == 0))


@dataclass(frozen=True)
class EvaluationLanes:
    """Rows of an evaluation in B contiguous lanes: every row exactly once, lanes of unequal length padded with -1."""

    num_rows: int
    lanes: int

    @property
    def num_steps(self) -> int:
        return -(-self.num_rows // self.lanes)

    def rows(self, step: int, lanes_read: Indices) -> Indices:
        """Row of each lane [n] at `step`, -1 where that lane has ended."""
        rows = lanes_read * self.num_steps + step
        ended = rows >= self.num_rows
        return np.where(ended, -1, rows)
