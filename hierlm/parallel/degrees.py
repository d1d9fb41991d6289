"""Who is who in a layout: pure arithmetic over rank numbers. Torch-free.

Axis order (pipeline, data, tensor), tensor fastest: the order of DeepSpeed's PipeModelDataParallelTopology and of
megatron-core's default, which a test compares with this file for every layout up to 64 ranks.
"""

from typing import NamedTuple

from hierlm.parallel.config import ParallelConfig


class Coordinates(NamedTuple):
    """One rank's place on each axis."""

    pp_rank: int
    dp_rank: int
    tp_rank: int


class Degrees(NamedTuple):
    """The size of each axis; their product is the world size."""

    data: int = 1
    tensor: int = 1
    pipeline: int = 1

    @classmethod
    def of(cls, layout: ParallelConfig) -> "Degrees":
        """The degrees a user asked for."""
        return cls(layout.data_parallel_degree, layout.tensor_parallel_degree, layout.pipeline_parallel_degree)

    @property
    def world_size(self) -> int:
        return self.data * self.tensor * self.pipeline

    def coordinates(self, rank: int) -> Coordinates:
        """The place of a rank, 0 <= rank < world_size."""
        rest, tp_rank = divmod(rank, self.tensor)
        pp_rank, dp_rank = divmod(rest, self.data)
        return Coordinates(pp_rank, dp_rank, tp_rank)

    def rank_at(self, place: Coordinates) -> int:
        """The rank at a place: the inverse of `coordinates`."""
        return (place.pp_rank * self.data + place.dp_rank) * self.tensor + place.tp_rank

    def tensor_groups(self) -> list[list[int]]:
        """Ranks that hold slices of the same weights and work on the same rows."""
        return self._groups("tp_rank")

    def data_groups(self) -> list[list[int]]:
        """Ranks that hold the same slices of the same layers and work on different rows."""
        return self._groups("dp_rank")

    def pipeline_groups(self) -> list[list[int]]:
        """Ranks that pass the same rows from stage to stage."""
        return self._groups("pp_rank")

    def model_groups(self) -> list[list[int]]:
        """Ranks that hold one whole model between them."""
        return self._groups("tp_rank", "pp_rank")

    def _groups(self, *varying: str) -> list[list[int]]:
        """Ranks that agree on every axis but the varying ones, in rank order."""
        groups: dict[Coordinates, list[int]] = {}
        for rank in range(self.world_size):
            fixed = self.coordinates(rank)._replace(**dict.fromkeys(varying, 0))
            groups.setdefault(fixed, []).append(rank)
        return list(groups.values())
