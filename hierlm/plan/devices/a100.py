"""NVIDIA A100 80GB SXM."""

from hierlm.plan.device import GPU_KERNEL_SECONDS, Device

# dense rates: the data sheet prints twice as much, with sparsity (624 TFLOP/s of bf16);
# memory is in GB of 10**9 bytes
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


def device(*, processes: int) -> Device:
    """The same for any number of processes: each has one."""
    return A100
