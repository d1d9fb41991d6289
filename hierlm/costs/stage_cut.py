"""Where to cut the layer list into pipeline stages: by cost, solved exactly. Pure python.

A layer at 1/k resolution costs 1/k or less, so equal layer counts starve the stages that hold the coarse levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

FLOPS_PER_BYTE = 4000.0
"""Work done in the time one boundary byte takes: about 400 TFLOP/s of real matrix work over 100 GB/s of link, as
between H100-class devices joined by NVLink at a quarter of its peak. Only the ratio matters to the cut."""


class Cost(Protocol):
    """What the cut needs to know of a layer (`hierlm.costs.flops.LayerCost`)."""

    @property
    def training_flops(self) -> int: ...

    @property
    def output_bytes_per_row(self) -> int: ...


@dataclass(frozen=True)
class StageCut:
    """Stage s holds layers boundaries[s] .. boundaries[s + 1] - 1; costs in FLOPs per row, traffic included."""

    boundaries: tuple[int, ...]
    stage_costs: tuple[float, ...]

    @property
    def imbalance(self) -> float:
        """How much longer the slowest stage takes than the mean: max / mean - 1, 0 when even."""
        return max(self.stage_costs) * len(self.stage_costs) / sum(self.stage_costs) - 1


def cut_by_cost(costs: Sequence[Cost], *, num_stages: int, flops_per_byte: float = FLOPS_PER_BYTE) -> StageCut:
    """The cut whose costliest stage is cheapest, every stage holding a layer; of equal ones the first boundary wins.

    Dynamic programming over (stages, layers): exact, num_stages x layers^2. ValueError when stages outnumber layers.
    """
    _check_stages(len(costs), num_stages)
    stage_cost = _StageCost(costs, flops_per_byte=flops_per_byte)
    # best[n] = (cost of the costliest stage, boundaries) over all cuts of the first n layers into s stages
    best: dict[int, tuple[float, tuple[int, ...]]]
    best = {n: (stage_cost(0, n), (0, n)) for n in range(1, len(costs) + 1)}
    for stages in range(2, num_stages + 1):
        best = {
            n: min((max(best[k][0], stage_cost(k, n)), (*best[k][1], n)) for k in range(stages - 1, n))
            for n in range(stages, len(costs) + 1)
        }
    return stage_cost.cut(best[len(costs)][1])


def cut_uniformly(costs: Sequence[Cost], *, num_stages: int, flops_per_byte: float = FLOPS_PER_BYTE) -> StageCut:
    """Equal layer counts: what the cost cut is measured against."""
    _check_stages(len(costs), num_stages)
    boundaries = tuple(len(costs) * stage // num_stages for stage in range(num_stages + 1))
    return _StageCost(costs, flops_per_byte=flops_per_byte).cut(boundaries)


def cut_by_hand(
    costs: Sequence[Cost], *, first_layers: Sequence[int], num_stages: int, flops_per_byte: float = FLOPS_PER_BYTE
) -> StageCut:
    """The cut a user wrote: the first layer of every stage after the first. ValueError when it is none."""
    boundaries = (0, *first_layers, len(costs))
    if len(first_layers) != num_stages - 1 or any(a >= b for a, b in pairwise(boundaries)):
        raise ValueError(
            f"stage cut {list(first_layers)}: expected {num_stages - 1} rising layer indices between 1 and "
            f"{len(costs) - 1}, one for the first layer of every stage after the first"
        )
    return _StageCost(costs, flops_per_byte=flops_per_byte).cut(boundaries)


class _StageCost:
    """Forward + backward FLOPs of a stretch of layers, and what comes in and goes out at its ends, there and back."""

    def __init__(self, costs: Sequence[Cost], *, flops_per_byte: float) -> None:
        self._flops = [0, *accumulate(cost.training_flops for cost in costs)]
        inner = (2 * flops_per_byte * cost.output_bytes_per_row for cost in costs[:-1])
        self._traffic = [0.0, *inner, 0.0]

    def __call__(self, start: int, stop: int) -> float:
        return self._flops[stop] - self._flops[start] + self._traffic[start] + self._traffic[stop]

    def cut(self, boundaries: tuple[int, ...]) -> StageCut:
        return StageCut(boundaries, tuple(self(a, b) for a, b in pairwise(boundaries)))


def _check_stages(num_layers: int, num_stages: int) -> None:
    if not 1 <= num_stages <= num_layers:
        raise ValueError(f"{num_stages} stages for {num_layers} layers: every stage needs a layer")
