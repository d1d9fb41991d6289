"""Weights of another training taken into a fresh engine of any layout: each rank reads what it updates, nothing else.

That is a stretch of its own slice of a parameter of its own stage; full precision goes in, whatever type the forward
pass computes in. The optimizer knows nothing of it and begins as new.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from hierlm.checkpoint.weights import Weights, as_matrix
from hierlm.parallel.groups import Groups
from hierlm.parallel.universal import Home, homes

MOST_VALUES = 1 << 24
"""Read at a time: so much may be held beside the weights."""


class Part(NamedTuple):
    """What a tensor-parallel rank holds of a parameter: a block of it as a matrix."""

    rows: range
    columns: range

    def stretch(self, start: int, stop: int) -> Iterator[tuple[int, int, range]]:
        """Values `start` to `stop` of the flattened block, cut into (first, last + 1, the rows they lie in)."""
        width = max(len(self.columns), 1)
        rows_at_once = max(MOST_VALUES // width, 1)
        stop = min(stop, len(self.rows) * width)  # behind it is padding, which stays as it is built
        while start < stop:
            first = start // width
            last = min(first + rows_at_once, -(-stop // width))
            yield start, min(last * width, stop), range(first, last)
            start = last * width


def part_of(shape: tuple[int, ...], *, rule: str, tp_rank: int, degree: int) -> Part:
    """By the same rules that cut the parameter when it was built."""
    rows, columns = as_matrix(shape)
    if rule == "row" and len(shape) > 1:
        share = columns // degree
        return Part(range(rows), range(tp_rank * share, (tp_rank + 1) * share))
    if rule == "replicate":
        return Part(range(rows), range(columns))
    size = -(-shape[0] // degree)
    first, last = (min(place * size, shape[0]) for place in (tp_rank, tp_rank + 1))
    of_each = math.prod(shape[1:]) // columns
    return Part(range(first * of_each, last * of_each), range(columns))


def read_first_weights(
    engine: Any, weights: Weights, taken: Mapping[str, str], *, rules: Mapping[str, str], groups: Groups
) -> None:
    """Fill what the optimizer of this rank updates; the forward pass follows with `update_working_weights`.

    `taken`: parameter -> the tensor of `weights` it begins with, of its shape; others stay as they are.
    """
    shapes = weights.shapes
    for home in homes(engine):
        if home.name not in taken:
            continue
        name = taken[home.name]
        part = part_of(shapes[name], rule=rules[home.name], tp_rank=groups.tp_rank, degree=groups.degrees["tensor"])
        block = partial(weights.block, name, columns=part.columns)
        _fill(home, part, block)


def _fill(home: Home, part: Part, block: Callable[..., Tensor]) -> None:
    owned = home.owner.data.view(-1)[home.owner_start : home.owner_start + home.numel]
    for start, stop, rows in part.stretch(home.start, home.start + home.numel):
        there = range(part.rows.start + rows.start, part.rows.start + rows.stop)
        skipped = rows.start * len(part.columns)
        values = block(rows=there).reshape(-1)[start - skipped : stop - skipped]
        owned[start - home.start : stop - home.start].copy_(values)
