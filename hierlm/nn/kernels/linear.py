"""`nn.Linear`, its large float32 products on AMD processors made by oneDNN, which is faster there than MKL.

On one thread of an EPYC (1024 x 512 x 2048): 89 against 78 GFLOP/s; of one with AVX-512, which MKL leaves unused there:
245 against 108. Everything else is `nn.Linear` as it is.

Shapes: M rows, K in_features, N out_features.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_MULTIPLICATIONS = 1 << 22
"""Of a product, M N K: the overhead of a call is not worth it below, or below half of it where AVX-512 lies idle."""

fused_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # not in every build of torch
"""input [..., K], weight [N, K], bias [N] or None, and what to do with the result: nothing here."""


class Linear(nn.Linear):
    """x [..., K] -> x weight^T + bias, [..., N]."""

    def forward(self, x: Tensor) -> Tensor:
        if is_faster(x, self.weight):
            product: Tensor = _Product.apply(x, self.weight, self.bias)
            return product
        return super().forward(x)


def is_faster(x: Tensor, weight: Tensor) -> bool:
    """Whether `times` is the fastest way to x [..., K] weight [N, K]^T."""
    least = LEAST_MULTIPLICATIONS // 2 if leaves_avx512_idle() else LEAST_MULTIPLICATIONS
    return (
        x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= least
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()  # it chooses its own kernels
        and has_slow_blas()
    )


@cache
def has_slow_blas() -> bool:
    """Whether this is an AMD processor below a torch that has both MKL and oneDNN."""
    info = Path("/proc/cpuinfo")
    is_amd = info.exists() and "AuthenticAMD" in info.read_text()
    return is_amd and torch.backends.mkl.is_available() and fused_product is not None


@cache
def leaves_avx512_idle() -> bool:
    """Whether this processor has vectors of a width that MKL does not use on it and oneDNN does."""
    return has_slow_blas() and torch.backends.cpu.get_cpu_capability() == "AVX512"


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        needs_x, needs_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if needs_weight else None, weight if needs_x else None)
        return times(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            times(gradient, weight.t()) if needs_x else None,
            _of_weight(rows, x.flatten(0, -2)) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


def times(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] weight^T + bias by oneDNN, for a weight [N, K] of any strides."""
    assert fused_product is not None
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # with gaps in memory, or one number for many, it is a thousand times slower
    product: Tensor = fused_product(x, weight, bias, "none", [], "")
    return product


def _of_weight(gradient: Tensor, x: Tensor) -> Tensor:
    """[M, N], [M, K] -> gradient^T x, [N, K]: oneDNN wants a transposed copy of one side, taken of the smaller."""
    if gradient.shape[1] <= x.shape[1]:
        return times(gradient.t().contiguous(), x.t())
    return times(x.t().contiguous(), gradient.t()).t().contiguous()
