"""Private names of torch. Torch is pinned, yet what is not promised is looked for all the same."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hierlm.parallel.seams.handle import Field, Handle
from hierlm.parallel.seams.seam import Names, has, is_there, refuse, thing_at

NAMES = Names()
take = NAMES.take

profiler_is_running: Callable[[], bool] = take(
    "torch.autograd", "_profiler_enabled", "layers get spans only in a trace"
)
has_triton: Callable[[], bool] = take("torch.utils._triton", "has_triton", "without Triton nothing is fused on a GPU")
FirstComputation: Any = take(
    "torch.utils.checkpoint", "_CachingTorchDispatchMode", "selective recompute keeps products under their numbers"
)
SecondComputation: Any = take(
    "torch.utils.checkpoint", "_CachedTorchDispatchMode", "selective recompute finds kept products by their numbers"
)
take("torch.UntypedStorage", "_cdata", "it tells storages apart, on the meta device too, where there is no address")


def _attention(name: str) -> Any:
    """An operator of scaled dot product attention."""
    operator = take("torch.ops.aten", name, "selective recompute keeps what attention gives")
    return None if operator is None else operator.default


ATTENTION_OPERATORS = frozenset(
    {
        _attention("_scaled_dot_product_flash_attention"),
        _attention("_scaled_dot_product_flash_attention_for_cpu"),
        _attention("_scaled_dot_product_efficient_attention"),
        _attention("_scaled_dot_product_cudnn_attention"),
    }
)
"""Whatever scaled dot product attention is computed by: outputs are dear for their size."""

refuse(NAMES.problems())

COMPILER = Names()
"""Looked for where something is to be compiled: importing torch's compiler takes seconds."""

_compiler = COMPILER.later("torch._inductor.cpp_builder", "get_cpp_compiler", "it finds the compiler of train.compile")
_none_found = COMPILER.later("torch._inductor.exc", "InvalidCxxCompiler", "it says that there is no compiler")


class ModuleHooks(Handle):
    """Of any module."""

    of = "torch.nn.Module"

    before_load = Field[Any]("megatron-core adds what a strict load refuses", name="_load_state_dict_pre_hooks")


def forget_load_hooks(module: nn.Module) -> None:
    """Whatever was to be done before a state dict is loaded into the module is not."""
    ModuleHooks(module).before_load.clear()


def storage_key(tensor: Tensor) -> int:
    """The same for tensors that share memory, also where it has no address, as on the meta device."""
    key: int = tensor.untyped_storage()._cdata
    return key


def has_cpp_compiler() -> bool:
    """Whether torch finds what to compile kernels for the CPU with."""
    compiler, none_found = _compiler(), _none_found()
    try:
        compiler()
    except none_found:
        return False
    return True


def problems_of_torch() -> list[str]:
    """One line for each name that is not there now."""
    hooks = ModuleHooks.before_load.seam
    is_hooked = is_there(ModuleHooks.of) and has(thing_at(ModuleHooks.of)(), hooks.name)
    return [*NAMES.problems(), *([] if is_hooked else [hooks.problem()])]
