"""Names that functions of DeepSpeed and megatron-core look for on objects of ours, or write on them.

There is nothing to replace or to call: what can be seen at a start is whether the function still speaks of the name.
"""

from collections.abc import Iterator
from inspect import unwrap
from types import CodeType

from hierlm.parallel.seams.parameters import COPY, PADDING, SLICE
from hierlm.parallel.seams.seam import Seam, is_there, thing_at

_STEP = "deepspeed.runtime.engine.DeepSpeedEngine._take_model_step"
_NORM = "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.get_grad_norm_direct"
_FILL = "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.get_flat_partition"

SPOKEN = (
    Seam(_STEP, "_global_grad_norm", "without ZeRO we leave the norm there, on our own optimizer"),
    Seam(_STEP, "overflow", "without ZeRO we say there, on our own optimizer, that a step is left out"),
    Seam(_STEP, "clip_fp32_gradients", "without ZeRO the norm is made there"),
    Seam(_NORM, COPY, "a weight tied over stages is counted on one of them"),
    Seam("deepspeed.runtime.bf16_optimizer.BF16_Optimizer.get_grads_for_norm", COPY, "as in the other stages"),
    Seam("deepspeed.runtime.utils.is_model_parallel_parameter", SLICE, "slices are counted on every rank, others once"),
    Seam("megatron.core.tensor_parallel.set_tensor_model_parallel_attributes", SLICE, "our norm counts by it too"),
    Seam(_FILL, PADDING, "the norm over stages passes padding over", versions=">=0.19.7"),
    Seam(
        "deepspeed.runtime.pipe.engine.PipelineEngine._exec_reduce_tied_grads",
        "get_tied_weights_and_groups",
        "gradients of tied weights are summed through what it returns",
    ),
    Seam("deepspeed.runtime.pipe.module.PipelineModule.stage_owner", "parts", "we say there how layers are cut"),
    Seam(
        "deepspeed.runtime.pipe.module.PipelineModule._precompute_checkpointable_values",
        "forward_funcs",
        "we say there what this stage runs",
    ),
)


def problems_of_spoken() -> Iterator[str]:
    """One line for each name that its function no longer knows."""
    for seam in (seam for seam in SPOKEN if seam.applies):
        if not is_there(seam.owner):
            yield seam.problem("the function is not there")
        elif seam.name not in _words(unwrap(thing_at(seam.owner)).__code__):
            yield seam.problem("the function does not speak of it")


def _words(code: CodeType) -> set[str]:
    """Names and strings in a function and in those inside it."""
    words = {*code.co_names, *(word for word in code.co_consts if isinstance(word, str))}
    for inside in (part for part in code.co_consts if isinstance(part, CodeType)):
        words |= _words(inside)
    return words
