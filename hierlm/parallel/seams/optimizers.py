"""What ZeRO puts around the optimizer. Without ZeRO, DeepSpeed works with ours itself."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hierlm.parallel.seams.handle import Field, Handle, Method, Replaced, Written
from hierlm.parallel.seams.seam import Seam, refuse
from hierlm.parallel.seams.versions import is_within

Call = Callable[..., Any]
OLDER = "<0.19.8"
"""DeepSpeed that follows a gradient that is not finite (`hierlm.parallel.older_deepspeed`)."""


class ZeroOptimizer(Handle):
    """What all have; each list beside its own class."""

    of = "deepspeed.runtime.base_optimizer.ZeROOptimizer"

    param_groups = Field[Any]("the learning rate of a step is written into them")
    groups: Sequence[Sequence[Any]]
    overflow: Any
    is_last_micro_batch = Method[Call](
        "its gradients may be sent as they come", name="is_gradient_accumulation_boundary"
    )


class Bf16Optimizer(ZeroOptimizer):
    """Stage 1 in bf16: full-precision gradients are summed whole."""

    of = "deepspeed.runtime.bf16_optimizer.BF16_Optimizer"

    groups = Field[Any]("each owner of full-precision values holds stretches of a group", name="bf16_groups")  # type: ignore[assignment]
    overflow = Written[Any]("it says whether the step was left out", versions=">=0.19.8")
    fp32_groups_gradients = Field[Any]("the norm looks into gradients that it counts on another rank")
    flat_gradients = Field[Any]("they are scattered", name="fp32_groups_gradients_flat")
    gradient_parts = Field[Any]("their sum comes there", name="fp32_groups_gradient_flat_partition")
    add_gradient = Replaced[Call](
        "a bucket whose last gradient has come is sent",
        takes=("lp_param", "group_idx", "param_idx"),
        name="accumulate_hp_grads_and_remove_lp",
    )
    get_grads_for_norm = Replaced[Call](
        "it leaves out what it counts on another rank, finite or not", takes=("for_clipping",), versions=">=0.19.8"
    )
    update_lp_params = Method[Call]("weights follow a universal checkpoint")
    step = Replaced[Call]("it follows gradients that are not finite", takes=("closure",), versions=OLDER)
    clear_hp_grads = Method[Call]("a step that is left out leaves no gradient behind", versions=OLDER)
    clear_lp_grads = Method[Call]("a step that is left out leaves no gradient behind", versions=OLDER)


class PartitionedOptimizer(ZeroOptimizer):
    """What stages 1, 2 and 3 have: their own count of micro-batches."""

    of = "deepspeed.runtime.base_optimizer.ZeROOptimizer"

    overflow = Written[Any]("it says whether the step was left out")
    gradient_accumulation_steps = Written[int]("phases differ in micro-batches a step, and it divides gradients by it")
    loss_scaler = Field[Any]("it stays as it is: an object is not taken from a file")


class Stage12Optimizer(PartitionedOptimizer):
    """Stages 1 and 2, in fp32 and, the second, in bf16."""

    of = "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer"

    groups = Field[Any]("each owner of full-precision values holds stretches of a group", name="bit16_groups")  # type: ignore[assignment]
    averaged_gradients = Field[Any]("the norm over stages is made of them")
    params_in_partition = Field[Any]("the norm over stages counts tied and replicated ones once")
    device = Field[Any]("the norm is wanted there")
    flat_weights = Field[Any]("gradients are added up in the same order", name="bit16_groups_flat")
    owners = Field[Any]("they say how large a partition is", name="single_partition_of_fp32_groups")
    cpu_offload = Field[bool]("an update in host memory takes its gradients there")
    process_gradients = Replaced[Call]("it sums whole gradients over all ranks", takes=("param", "i"))
    reduce_gradients = Replaced[Call]("it sums whole gradients over all ranks", takes=("pipeline_parallel",))
    end_of_backward = Replaced[Call](
        "it sums whole gradients over all ranks", takes=(), name="overlapping_partition_gradients_reduce_epilogue"
    )
    check_grad_overflow = Written[bool]("true: gradients are looked at that the norm counts on another rank")
    has_overflow = Replaced[Call]("it waits for the device", takes=("partition_gradients",))
    scaled_global_norm = Replaced[Call](
        "it reduces once a parameter group, and hangs where stages have unequally many", takes=("norm_type",)
    )
    update_lp_params = Method[Call]("weights follow a universal checkpoint")


class Stage3Optimizer(PartitionedOptimizer):
    """Stage 3: weights are partitioned too. What says fp16 in it holds bf16 and fp32 as well."""

    of = "deepspeed.runtime.zero.stage3.DeepSpeedZeroOptimizer_Stage3"

    groups = Field[Any]("each owner of full-precision values holds stretches of a group", name="fp16_groups")  # type: ignore[assignment]
    averaged_gradients = Field[Any]("layers' gradients are measured before an update")
    device = Field[Any]("whether gradients are finite is said there")
    owners = Field[Any]("they are what a universal checkpoint is read into", name="fp32_partitioned_groups_flat")
    flat_weights = Field[Any]("weights follow a universal checkpoint", name="fp16_partitioned_groups_flat")
    weights = Field[Any]("weights follow a universal checkpoint", name="fp16_partitioned_groups")
    unflatten = Field[Call]("weights follow a universal checkpoint")
    norm_groups = Replaced[Call](
        "it leaves out what it counts on another rank, finite or not",
        takes=(),
        name="_get_norm_groups",
        versions=">=0.19.8",
    )
    has_overflow = Method[Call]("every gradient of this rank is looked at", versions=">=0.19.8")
    check_overflow = Method[Call]("every gradient of this rank is looked at", versions=OLDER)
    overflow_check = Replaced[Call](
        "it looks at gradients in fp16 only", takes=(), name="_overflow_check_and_loss_scale_update", versions=OLDER
    )


INVALID_NORM = Seam(
    "deepspeed.runtime.utils",
    "is_invalid_grad_norm",
    "its optimizers ask it whether to leave a step out",
    versions=">=0.19.8",
)


def skips_by_itself() -> bool:
    """Whether the installed DeepSpeed leaves out a step whose gradient norm is not finite."""
    return is_within("deepspeed", INVALID_NORM.versions)


def handle_of(optimizer: Any) -> Any:
    """A handle on one of DeepSpeed's; ours is handed back as it is. UserError for a class that is not listed."""
    kind = type(optimizer)
    if not kind.__module__.startswith("deepspeed."):
        return optimizer
    path = f"{kind.__module__}.{kind.__qualname__}"
    handle = next((handle for handle in (Bf16Optimizer, Stage12Optimizer, Stage3Optimizer) if handle.of == path), None)
    if handle is None:
        refuse([Seam(kind.__module__, kind.__qualname__, "gradients are read of it").problem("not known here")])
    assert handle is not None
    return handle(optimizer)


def show_norm(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """Leave the norm where DeepSpeed's engine looks for it after a step, and that it need not mind what it is.

    Its own optimizers have both, ours leaves a step out by itself; where it looks: `hierlm.parallel.seams.spoken`.
    """
    optimizer._global_grad_norm, optimizer.overflow = norm, False
