"""ZeRO stage 3 from the first weight on: each layer is partitioned when it is built.

DeepSpeed by itself partitions a model when all of it is there: every rank then needs room for the whole, in fp32, only
to begin. What a rank keeps is the same, and so are the first weights.
"""

from collections.abc import Callable
from typing import Any

import torch

from hierlm.config.run_config import RunConfig
from hierlm.nn.layer import Layer
from hierlm.parallel.groups import Groups
from hierlm.parallel.seams.deepspeed_names import PartitionedOnSight
from hierlm.parallel.zero import effective_stage


def partition_by_layer(config: RunConfig[Any], groups: Groups) -> Callable[[Layer], None]:
    """What is done with each layer as soon as it is built; nothing below stage 3.

    A message for each weight: all data-parallel ranks build the same layers in the same order.
    """
    if effective_stage(config) != 3:
        return lambda layer: None
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    is_on_host = config.parallel.offload == "parameters"

    def partition(layer: Layer) -> None:
        for parameter in layer.parameters():
            parameter.data = parameter.data.to(dtype)  # as the engine would, before it partitions
        PartitionedOnSight(
            module=layer,
            data_parallel_group=groups.data,
            dtype=dtype,
            remote_device="cpu" if is_on_host else None,
            pin_memory=is_on_host and torch.cuda.is_available(),
        )

    return partition
