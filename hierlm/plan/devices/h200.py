"""NVIDIA H200 SXM."""

from hierlm.plan.device import GPU_KERNEL_SECONDS, Device

# dense rates: the data sheet prints twice as much, with sparsity (1,979 TFLOP/s of bf16);
# memory is in GB of 10**9 bytes
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


def device(*, processes: int) -> Device:
    """The same for any number of processes: each has one."""
    return H200
