"""Which layouts a number of devices allows. The rules are `hierlm.config.rules`."""

from collections.abc import Iterator
from itertools import product
from math import gcd
from typing import Any

from hierlm.config import rules
from hierlm.config.run_config import RunConfig
from hierlm.parallel.config import ParallelConfig

RECOMPUTE = ("none", "selective", "full")
"""From the fastest to the smallest: all else equal, each takes longer than the one before."""

COMPARED = ("data_parallel_degree", "tensor_parallel_degree", "pipeline_parallel_degree", "zero_stage",
            "micro_batch_size", "activation_recompute", "sequence_parallel", "stage_cut")  # fmt: skip

MOST_DEVICES = 4096


def candidates(config: RunConfig[Any], *, num_devices: int, num_layers: int, per_node: int) -> Iterator[ParallelConfig]:
    """Every layout of so many devices that obeys the rules; tensor parallelism stays within a node."""
    for layout in unchecked(config, num_devices=num_devices, num_layers=num_layers, per_node=per_node):
        for recompute in RECOMPUTE:
            recomputing = layout.model_copy(update={"activation_recompute": recompute})
            if obeys_rules(config, recomputing):
                yield recomputing


def unchecked(config: RunConfig[Any], *, num_devices: int, num_layers: int, per_node: int) -> Iterator[ParallelConfig]:
    """The same without recomputation, whether or not all rules are obeyed, which takes longer to find out."""
    asked = config.parallel
    for data, tensor, pipeline in _degrees(config, num_devices, num_layers, per_node):
        degrees = {"data_parallel_degree": data, "tensor_parallel_degree": tensor, "pipeline_parallel_degree": pipeline}
        shares = [phase.global_batch_size // data for phase in config.phases]
        for rows, stage, shares_tokens in product(
            _row_counts(shares), _stages(data, pipeline), (False, True) if tensor > 1 else (False,)
        ):
            inside = {"zero_stage": stage, "micro_batch_size": rows, "sequence_parallel": shares_tokens}
            kept = {"stage_cut": "cost", "activation_recompute": RECOMPUTE[0]}
            yield asked.model_copy(update={**kept, **degrees, **inside})


def obeys_rules(config: RunConfig[Any], layout: ParallelConfig) -> bool:
    """Whether the config with this layout could be written."""
    return not rules.conflicts(config.model_copy(update={"parallel": layout}))


def most_data_parallel(config: RunConfig[Any]) -> int:
    """Ranks that every phase's batch can be dealt out to."""
    return gcd(*(phase.global_batch_size for phase in config.phases))


def changes(old: ParallelConfig, new: ParallelConfig) -> dict[str, Any]:
    """The fields in which a layout differs, as they are written on the command line."""
    return {f"parallel.{name}": getattr(new, name) for name in COMPARED if getattr(new, name) != getattr(old, name)}


def _degrees(
    config: RunConfig[Any], num_devices: int, num_layers: int, per_node: int
) -> Iterator[tuple[int, int, int]]:
    """(Data, tensor, pipeline) whose product is the number of devices."""
    divisors = [divisor for divisor in range(1, num_devices + 1) if num_devices % divisor == 0]
    largest = most_data_parallel(config)
    for tensor, pipeline in product([degree for degree in divisors if degree <= per_node], divisors):
        if num_devices % (tensor * pipeline) or pipeline > num_layers:
            continue
        data = num_devices // (tensor * pipeline)
        if largest % data == 0:
            yield data, tensor, pipeline


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
