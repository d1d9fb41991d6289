"""What torch.compile makes: with `train.compile` every layer, in place, so that parameters keep their names; on a GPU
always what single kernels would read and write many times more.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor

from hierlm.errors import UserError
from hierlm.nn.kernels.target import target_of
from hierlm.nn.layer import Layer
from hierlm.parallel.seams.torch_private import has_cpp_compiler, has_triton

OPTIONS = {"fallback_random": True}
"""Draws stay those of torch's generators, which every layer seeds: the same masks as without compilation."""


def compile_layers(layers: Iterable[Layer], *, device: torch.device) -> None:
    """Each layer by itself, when it first runs; UserError where there is nothing to compile with."""
    missing = _missing_compiler(device)
    if missing:
        raise UserError(f"train.compile: given true, allowed here: false, because there is no {missing}")
    for layer in layers:
        layer.compile(options=OPTIONS)


def fused_on_gpu(
    function: Callable[..., Tensor], *, device: torch.device, without_data: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """`function` as few kernels where there is a GPU, Triton to write them and a C compiler for it, else as it is.

    A plan for a GPU takes them to be there: on its tensors `without_data` makes and keeps what the kernels would.
    """
    if device.type == "meta" and target_of(device) == "cuda":
        return without_data
    can_be = device.type == "cuda" and has_triton() and _has_c_compiler()
    return compiled(function) if can_be else function


def _has_c_compiler() -> bool:
    return bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))


@cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Once for all who ask, when it first runs."""
    return torch.compile(function)


def _missing_compiler(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None if has_triton() else "Triton, which writes its kernels; it comes with torch's CUDA builds"
    return None if has_cpp_compiler() else "C++ compiler; install g++ or name one in CXX"
