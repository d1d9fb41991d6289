"""From what the user wrote to the layers of every stage."""

from collections.abc import Sequence
from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.costs.flops import LayerCost, layer_costs
from hierlm.costs.stage_cut import StageCut, cut_by_cost, cut_by_hand, cut_uniformly
from hierlm.errors import UserError
from hierlm.parallel.config import ParallelConfig


def stage_cut(config: RunConfig[Any]) -> StageCut:
    """The cut of a run's layer list, for the sequence length of its first phase; UserError when there is none.

    A pure function of the config: every rank finds the same cut by itself.
    """
    return cut_for(config.parallel, costs=cut_costs(config))


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
