"""Who is who in a layout: pure arithmetic over rank numbers. Torch-free.

A layout has one axis for each kind of parallelism, by name. A further kind is a further name in `AXES`, a field
`<name>_parallel_degree` of ParallelConfig, and the file that does with its groups what it is for.

Axis order (pipeline, data, tensor), tensor fastest: the order of DeepSpeed's PipeModelDataParallelTopology and of
megatron-core's default, which a test compares with this file for every layout up to 64 ranks.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import ClassVar, Self

from hierlm.parallel.config import ParallelConfig

AXES = ("pipeline", "data", "tensor")
"""Neighbouring ranks differ on the last one."""

WHOLE_MODEL = ("pipeline", "tensor")
"""Ranks that differ on these alone hold one whole model between them."""


class ByAxis(Mapping[str, int]):
    """A number for each axis; the axes that are not given have the neutral one. Hashable, equal by value."""

    NEUTRAL: ClassVar[int]

    def __init__(self, **of_axis: int) -> None:
        unknown = set(of_axis) - set(AXES)
        assert not unknown, f"no axis {sorted(unknown)}, there are {AXES}"
        self._of_axis = {axis: of_axis.get(axis, self.NEUTRAL) for axis in AXES}

    def __getitem__(self, axis: str) -> int:
        return self._of_axis[axis]

    def __iter__(self) -> Iterator[str]:
        return iter(AXES)

    def __len__(self) -> int:
        return len(AXES)

    def __hash__(self) -> int:
        return hash(tuple(self.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{axis}={number}' for axis, number in self.items())})"

    def replaced(self, **of_axis: int) -> Self:
        """The same with other numbers on some axes."""
        return type(self)(**{**self, **of_axis})


class Coordinates(ByAxis):
    """One rank's place on each axis."""

    NEUTRAL = 0


class Degrees(ByAxis):
    """The size of each axis; their product is the world size."""

    NEUTRAL = 1

    @classmethod
    def of(cls, layout: ParallelConfig) -> "Degrees":
        """The degrees a user asked for."""
        return cls(**{axis: getattr(layout, f"{axis}_parallel_degree") for axis in AXES})

    @property
    def world_size(self) -> int:
        return math.prod(self.values())

    def coordinates(self, rank: int) -> Coordinates:
        """The place of a rank, 0 <= rank < world_size."""
        place = {}
        for axis in reversed(AXES):
            rank, place[axis] = divmod(rank, self[axis])
        return Coordinates(**place)

    def rank_at(self, place: Coordinates) -> int:
        """The rank at a place: the inverse of `coordinates`."""
        rank = 0
        for axis in AXES:
            rank = rank * self[axis] + place[axis]
        return rank

    def places(self, varying: Collection[str]) -> Iterator[Coordinates]:
        """Every place on the varying axes, 0 on the others, in rank order."""
        for numbers in product(*(range(self[axis] if axis in varying else 1) for axis in AXES)):
            yield Coordinates(**dict(zip(AXES, numbers, strict=True)))

    def ranks_of_rows(self, rows: range, *, global_batch_size: int) -> list[int]:
        """The ranks that keep something of these rows of a global batch: one of each stage, tensor slice 0."""
        share = global_batch_size // self["data"]
        holders = range(rows.start // share, -(-rows.stop // share))
        return [
            self.rank_at(Coordinates(pipeline=stage, data=holder))
            for stage in range(self["pipeline"])
            for holder in holders
        ]

    def groups(self, *varying: str) -> list[list[int]]:
        """Ranks that agree on every axis but the varying ones, in rank order: what shares one process group."""
        fixed = [axis for axis in AXES if axis not in varying]
        return [
            [self.rank_at(inside.replaced(**{axis: place[axis] for axis in fixed})) for inside in self.places(varying)]
            for place in self.places(fixed)
        ]
