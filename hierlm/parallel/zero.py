"""DeepSpeed's own config, generated whole from ours: a misspelled key of theirs would pass in silence."""

import math
from typing import Any

import torch

from hierlm.config.run_config import RunConfig
from hierlm.phases.config import PhaseConfig

NEVER = 10**12
"""Steps between two prints of DeepSpeed's own; we print ourselves."""


LARGEST_BUCKET = 200_000_000
"""Values reduced or gathered in one message."""

NUM_BUCKETS = 16
"""Into about so many a small model's gradients are parted: the first is gone while most are still to be made."""
SMALLEST_SHARE, LARGEST_SHARE = 1 << 14, 40_000_000
"""Values of such a bucket: below, a message costs its latency; from there on a network is as fast as it gets."""


def deepspeed_config(config: RunConfig[Any], phase: PhaseConfig, *, num_parameters: int) -> dict[str, Any]:
    """The engine's config for the sizes of one phase (sizes of later phases are set when they begin).

    `num_parameters` is this rank's: DeepSpeed allocates whole buckets, so one larger than the model is waste.
    """
    layout = config.parallel
    bucket = min(LARGEST_BUCKET, num_parameters + num_parameters % 2)  # it must be even
    return {
        "train_micro_batch_size_per_gpu": layout.micro_batch(global_batch_size=phase.global_batch_size),
        "gradient_accumulation_steps": layout.grad_accumulation_steps(global_batch_size=phase.global_batch_size),
        "gradient_clipping": clip_norm(config),
        "zero_optimization": {
            "stage": effective_stage(config),
            "overlap_comm": False,
            "contiguous_gradients": True,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": 0,
            **_offload(layout.offload),
        },
        "bf16": {
            "enabled": config.train.precision == "bf16",
            "check_grad_overflow": True,  # as fp32 does
            "immediate_grad_update": is_scattered(config),  # bf16 gradients are added to the fp32 ones as they come
        },
        "data_types": {"grad_accum_dtype": "fp32"},
        # its slicing of boundary tensors over tensor-parallel ranks knows one differentiable tensor only
        "pipeline": {"pipe_partitioned": False, "grad_partitioned": False, "activation_checkpoint_interval": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW updates host memory too, and needs no compiler
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
    }


def _offload(what: str) -> dict[str, Any]:
    """ZeRO-Offload (Ren et al. 2021, 2101.06840) and, for the weights of stage 3, ZeRO-Infinity's to host memory."""
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    homes = {"optimizer": ("offload_optimizer",), "parameters": ("offload_optimizer", "offload_param")}
    return {home: host for home in homes.get(what, ())}


def is_scattered(config: RunConfig[Any]) -> bool:
    """Whether gradients are exchanged by `hierlm.parallel.scattered_gradients`; at stage 3 DeepSpeed scatters them."""
    return effective_stage(config) in (1, 2) and config.parallel.data_parallel_degree > 1


def bucket_values(config: RunConfig[Any], *, num_parameters: int) -> int | None:
    """The most values that are exchanged together, where they are exchanged in buckets of parameters."""
    share = max(SMALLEST_SHARE, min(LARGEST_SHARE, num_parameters // NUM_BUCKETS))
    return share if is_scattered(config) else None


def reduce_dtype(config: RunConfig[Any]) -> torch.dtype:
    """As what gradients travel between data-parallel ranks."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[config.parallel.reduce_precision]


def effective_stage(config: RunConfig[Any]) -> int:
    """The stage asked for; bf16 at stage 0 (one data-parallel rank only) needs stage 1's fp32 accumulation."""
    layout = config.parallel
    if layout.zero_stage == 0 and config.train.precision == "bf16":
        assert layout.data_parallel_degree == 1, "refused by hierlm.config.rules"
        return 1
    return layout.zero_stage


def clip_norm(config: RunConfig[Any]) -> float:
    """The largest gradient norm; infinite instead of off, so that the norm is computed and logged all the same."""
    return config.optim.gradient_clip or math.inf
