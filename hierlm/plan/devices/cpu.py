"""A share of this machine, among the processes of a run."""

import os

import psutil
import torch

from hierlm.plan.device import Device
from hierlm.plan.matmul_rate import measured_matmul_flops


def device(*, processes: int) -> Device:
    """Measured now, a fraction of a second."""
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
