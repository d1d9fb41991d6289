"""From what the user wrote to the layers of every stage."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.costs.flops import LayerCost, layer_costs
from hierlm.costs.stage_cut import StageCut, cut_by_cost, cut_by_hand, cut_uniformly
from hierlm.errors import UserError
from hierlm.models.assembly import shared_weights
from hierlm.parallel.config import ParallelConfig


def stage_cut(config: RunConfig[Any]) -> StageCut:
    """The cut of a run's layer list, for the sequence length of its first phase; UserError when there is none.

    A pure function of the config: every rank finds the same cut by itself.
    """
    costs = cut_costs(config)
    cut = cut_for(config.parallel, costs=costs)
    tied = {share.user for share in shared_weights(config.model)}
    weighty = [index for index, cost in enumerate(costs) if cost.parameters or index in tied]
    for stage, (first, behind) in enumerate(pairwise(cut.boundaries)):
        if not any(first <= index < behind for index in weighty):  # an optimizer of nothing is refused by torch
            names = ", ".join(cost.name for cost in costs[first:behind])
            raise UserError(
                f"parallel.stage_cut: given {config.parallel.stage_cut}, stage {stage} holds no weights ({names}); "
                "cut elsewhere, or into fewer stages (parallel.pipeline_parallel_degree)"
            )
    return cut


def cut_costs(config: RunConfig[Any]) -> list[LayerCost]:
    """What the cut goes by."""
    return layer_costs(
        config.model,
        sequence_length=config.phases[0].sequence_length,
        bytes_per_value=2 if config.train.precision == "bf16" else 4,
    )


def cut_for(layout: ParallelConfig, *, costs: Sequence[LayerCost]) -> StageCut:
    """The cut a layout asks for; UserError when there is none."""
    wanted, num_stages = layout.stage_cut, layout.pipeline_parallel_degree
    try:
        if wanted == "cost":
            return cut_by_cost(costs, num_stages=num_stages)
        if wanted == "uniform":
            return cut_uniformly(costs, num_stages=num_stages)
        return cut_by_hand(costs, first_layers=wanted, num_stages=num_stages)
    except ValueError as error:
        raise UserError(f"parallel.stage_cut: {error}") from error
