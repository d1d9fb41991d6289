"""Which layers of a list need to be run: of many equal ones in a row a few stand for all."""

from collections.abc import Sequence

from hierlm.costs.equal_layers import are_equal
from hierlm.nn.layer import LayerSpec

MOST_ALIKE = 3
"""Of more equal layers in a row only so many are run: the second stands for those left out."""


def representatives(specs: Sequence[LayerSpec]) -> list[int]:
    """For each layer the one that is run in its place: in a stretch of equal layers, the second for the middle ones."""
    chosen: list[int] = []
    start = 0
    while start < len(specs):
        stop = start + 1
        while stop < len(specs) and are_equal(specs[start], specs[stop]):
            stop += 1
        length = stop - start
        middle = range(start, stop) if length <= MOST_ALIKE else [start, *[start + 1] * (length - 2), stop - 1]
        chosen += middle
        start = stop
    return chosen
