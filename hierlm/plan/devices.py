"""Named devices: what their makers' data sheets say, and what of it training has been seen to reach."""

import os
from dataclasses import dataclass
from time import perf_counter

import psutil
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


# dense rates: the data sheets print twice as much, with sparsity (1,979 TFLOP/s of bf16 for H100 and H200, 624 for
# A100); memory is in GB of 10**9 bytes
H100 = Device(
    name="h100",
    bf16_flops=989.4e12,
    fp32_flops=67e12,
    memory_bytes=80 * 10**9,
    memory_bandwidth=3.35e12,
    kernel_seconds=GPU_KERNEL_SECONDS,
    node_link=450e9,
    fabric_link=50e9,
    per_node=8,
    is_gpu=True,
    source="NVIDIA H100 SXM5 data sheet (NVLink 900 GB/s both ways); one 400 Gb/s port a GPU as in DGX H100",
)
H200 = Device(
    name="h200",
    bf16_flops=989.4e12,
    fp32_flops=67e12,
    memory_bytes=141 * 10**9,
    memory_bandwidth=4.8e12,
    kernel_seconds=GPU_KERNEL_SECONDS,
    node_link=450e9,
    fabric_link=50e9,
    per_node=8,
    is_gpu=True,
    source="NVIDIA H200 SXM data sheet (NVLink 900 GB/s both ways); one 400 Gb/s port a GPU as in DGX H200",
)
A100 = Device(
    name="a100",
    bf16_flops=312e12,
    fp32_flops=19.5e12,
    memory_bytes=80 * 10**9,
    memory_bandwidth=2.039e12,
    kernel_seconds=GPU_KERNEL_SECONDS,
    node_link=300e9,
    fabric_link=25e9,
    per_node=8,
    is_gpu=True,
    source="NVIDIA A100 80GB SXM data sheet (NVLink 600 GB/s both ways); one 200 Gb/s port a GPU as in DGX A100",
)

_GPUS = {device.name: device for device in (H100, H200, A100)}

NAMES = (*_GPUS, "cpu")

BF16_PEAK_FLOPS = {  # dense, without sparsity; the makers' data sheets
    "H200": H200.bf16_flops,
    "H100": H100.bf16_flops,
    "A100": A100.bf16_flops,
    "L40S": 362e12,
    "V100": 125e12,
}
"""By a part of the name a GPU tells."""


def device(name: str, *, processes: int) -> Device:
    """A named device; `cpu` is a share of this machine, measured now, among so many processes of a run."""
    return _GPUS[name] if name in _GPUS else _this_machine(processes)


def _this_machine(processes: int) -> Device:
    here = min(processes, os.cpu_count() or 1)  # more processes would run on more machines like this one
    return Device(
        name="cpu",
        bf16_flops=measured_matmul_flops(torch.device("cpu"), precision="bf16") / here,
        fp32_flops=measured_matmul_flops(torch.device("cpu"), precision="fp32") / here,
        memory_bytes=psutil.virtual_memory().total // here,
        memory_bandwidth=12.5e9,
        kernel_seconds=10e-6,
        node_link=1e9,
        fabric_link=1e9,
        per_node=here,
        is_gpu=False,
        source="products measured here; links and memory bandwidth are assumed (gloo over loopback: 1 GB/s)",
    )


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
