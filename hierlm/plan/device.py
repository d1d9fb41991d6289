"""What a device is to the planner, and what of its data sheet training has been seen to reach."""

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from hierlm.nn.kernels.linear import Linear

GIB = 2**30

PRODUCT_SHARE = 0.8
"""Of the peak that products reach: large ones in bf16 790 of an H100's 989 TFLOP/s."""

MOVES = 2.8
"""How often a byte that an operation makes passes through memory, it and what it is made from: with this and the next,
steps of the eleven models on an H100 that they were fitted to took what is predicted within 10 %
(tests/benchmarks/RESULTS.md, GPU). Of twenty on an EPYC with AVX-512 0.70 to 1.21 of the time was predicted, of LSTMs,
whose steps wait for each other, 0.55 to 0.67."""

GPU_KERNEL_SECONDS = 18e-6
"""Of a kernel, beside its work: started from Python, uncompiled."""

USABLE_MEMORY = 0.92
"""Share of the memory left for tensors: the rest goes to the context, NCCL's buffers and the allocator's gaps."""

LINK_SHARE = 0.75
"""Share of a link's data-sheet rate that collectives reach on large messages."""


@dataclass(frozen=True)
class Device:
    """One rank's device. Rates are per second and one way."""

    name: str
    bf16_flops: float  # of dense products
    fp32_flops: float  # of products in full fp32, torch's default: without TF32
    memory_bytes: int
    memory_bandwidth: float  # bytes
    kernel_seconds: float  # of an operation, beside its work
    node_link: float  # bytes, to a peer in the same node
    fabric_link: float  # bytes, to another node
    per_node: int
    is_gpu: bool
    source: str

    def peak_flops(self, *, bf16: bool) -> float:
        """FLOP/s of products in a run's precision."""
        return self.bf16_flops if bf16 else self.fp32_flops


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


_SLOW_SECONDS = 0.1
"""Of one product."""


@torch.no_grad()
def _product_seconds(layer: Linear) -> float:
    start = perf_counter()
    product: Tensor = layer(layer.weight)
    if product.is_cuda:
        torch.cuda.synchronize(product.device)
    return perf_counter() - start
