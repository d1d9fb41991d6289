"""Which layouts a number of devices allows, and which of them to take. The rules are `hierlm.config.rules`."""

from collections.abc import Iterator
from itertools import product
from typing import Any, get_args

from hierlm.config import rules
from hierlm.config.run_config import RunConfig
from hierlm.errors import UserError
from hierlm.parallel.config import ParallelConfig
from hierlm.parallel.recompute import Recompute
from hierlm.plan.estimate import Estimate, Estimator

COMPARED = ("data_parallel_degree", "tensor_parallel_degree", "pipeline_parallel_degree", "zero_stage",
            "micro_batch_size", "activation_recompute", "sequence_parallel", "stage_cut")  # fmt: skip

MOST_DEVICES = 4096


def candidates(config: RunConfig[Any], *, num_devices: int, num_layers: int, per_node: int) -> Iterator[ParallelConfig]:
    """Every layout of so many devices that obeys the rules; tensor parallelism stays within a node."""
    tensor_degrees = [degree for degree in _divisors(num_devices) if degree <= per_node]
    for tensor, pipeline in product(tensor_degrees, _divisors(num_devices)):
        if num_devices % (tensor * pipeline) or pipeline > num_layers:
            continue
        data = num_devices // (tensor * pipeline)
        if any(phase.global_batch_size % data for phase in config.phases):
            continue
        kept = {"stage_cut": "cost", "sequence_parallel": config.parallel.sequence_parallel and tensor > 1}
        degrees = {"data_parallel_degree": data, "tensor_parallel_degree": tensor, "pipeline_parallel_degree": pipeline}
        shares = [phase.global_batch_size // data for phase in config.phases]
        for rows, stage, recompute in product(_row_counts(shares), _stages(data, pipeline), get_args(Recompute)):
            inside = {"zero_stage": stage, "micro_batch_size": rows, "activation_recompute": recompute}
            layout = config.parallel.model_copy(update={**kept, **degrees, **inside})
            if not rules.conflicts(config.model_copy(update={"parallel": layout})):
                yield layout


def fastest(estimator: Estimator, *, num_devices: int, most: int) -> list[Estimate]:
    """The layouts of so many devices that fit, the fastest run first; UserError when the rules allow none at all."""
    allowed, fitting = 0, []
    layouts = candidates(
        estimator.config,
        num_devices=num_devices,
        num_layers=len(estimator.cut_costs),
        per_node=estimator.device.per_node,
    )
    for layout in layouts:
        try:
            estimate = estimator.estimate(layout, exact=False)
        except (ValueError, UserError):  # a width that the tensor degree does not divide
            continue
        allowed += 1
        if estimate.fits:
            fitting.append(estimate)
    if not allowed:
        raise UserError(
            f"no layout of {num_devices} devices obeys the rules for these batch sizes, heads and layers; "
            "choose a number of devices that divides phases.N.global_batch_size times the model's heads"
        )
    return sorted(fitting, key=lambda each: (each.seconds, each.peak_bytes))[:most]


def nearest_that_fit(estimator: Estimator, layout: ParallelConfig, *, most: int) -> tuple[int, list[Estimate]]:
    """(devices, layouts ranked by speed): of as many devices as asked for, else of twice, four times, ... as many."""
    num_devices = layout.world_size
    while num_devices <= MOST_DEVICES:
        try:
            found = fastest(estimator, num_devices=num_devices, most=most)
        except UserError:
            found = []
        if found:
            return num_devices, found
        num_devices *= 2
    return 0, []


def changes(old: ParallelConfig, new: ParallelConfig) -> dict[str, Any]:
    """The fields in which a layout differs, as they are written on the command line."""
    return {f"parallel.{name}": getattr(new, name) for name in COMPARED if getattr(new, name) != getattr(old, name)}


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _row_counts(shares: list[int]) -> list[int]:
    """Powers of two that divide every phase's share, and the whole share."""
    smallest = min(shares)
    powers = [2**power for power in range(smallest.bit_length()) if 2**power <= smallest]
    return [rows for rows in sorted({*powers, smallest}) if all(share % rows == 0 for share in shares)]


def _stages(data: int, pipeline: int) -> list[int]:
    """ZeRO stages worth a look: partitioning over one rank changes nothing."""
    if data == 1:
        return [0]
    return [1] if pipeline > 1 else [1, 2, 3]
