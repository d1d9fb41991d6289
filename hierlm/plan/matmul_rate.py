"""The matrix-multiply rate of a device at hand, measured."""

from time import perf_counter

import torch
from torch import Tensor

from hierlm.nn.kernels.linear import Linear

_SLOW_SECONDS = 0.1
"""Of one product."""


def measured_matmul_flops(on: torch.device, *, precision: str, largest: int = 1024, repeats: int = 4) -> float:
    """FLOP/s of the best of a few square products as layers make them, in the training precision, with the threads of
    this process.

    The squares grow up to `largest`, or until the next would be slow: some processors only emulate bf16.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = min(largest, 256)
    while True:
        layer = Linear(size, size, bias=False, device=on, dtype=dtype)
        best = min(_product_seconds(layer) for _ in range(repeats))
        if 2 * size > largest or 2**3 * best > _SLOW_SECONDS:
            return 2 * size**3 / best
        size *= 2


@torch.no_grad()
def _product_seconds(layer: Linear) -> float:
    start = perf_counter()
    product: Tensor = layer(layer.weight)
    if product.is_cuda:
        torch.cuda.synchronize(product.device)
    return perf_counter() - start
