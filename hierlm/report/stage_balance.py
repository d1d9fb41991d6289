"""How evenly the pipeline's stages share the work: what the cost model predicts of the cut a run trains with."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from hierlm.costs.stage_cut import StageCut


class LayerCost(Protocol):
    """What is needed of `hierlm.costs.flops.LayerCost`."""

    @property
    def name(self) -> str: ...

    @property
    def training_flops(self) -> int: ...


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline; shares of all stages add up to 1."""

    first_layer: str
    last_layer: str
    num_layers: int
    flops_share: float  # of the forward and backward FLOPs of a row
    time_share: float  # the same with what the traffic at its ends costs, as the cut weighs it


@dataclass(frozen=True)
class StageBalance:
    """The stages in order. A pipeline waits for its slowest one."""

    stages: tuple[Stage, ...]

    @property
    def imbalance(self) -> float:
        """How much more the largest stage computes than the mean: max / mean - 1, 0 when even."""
        return max(stage.flops_share for stage in self.stages) * len(self.stages) - 1

    @property
    def time_imbalance(self) -> float:
        """The same with traffic."""
        return max(stage.time_share for stage in self.stages) * len(self.stages) - 1


def stage_balance(costs: Sequence[LayerCost], cut: StageCut) -> StageBalance:
    """The stages of a cut of the layer list `costs`."""
    all_flops, all_time = sum(cost.training_flops for cost in costs), sum(cut.stage_costs)
    return StageBalance(
        tuple(
            Stage(
                first_layer=costs[start].name.removeprefix("layers."),
                last_layer=costs[stop - 1].name.removeprefix("layers."),
                num_layers=stop - start,
                flops_share=sum(cost.training_flops for cost in costs[start:stop]) / all_flops,
                time_share=time / all_time,
            )
            for (start, stop), time in zip(pairwise(cut.boundaries), cut.stage_costs, strict=True)
        )
    )
