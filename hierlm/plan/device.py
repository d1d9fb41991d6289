"""What a device is to the planner, and what of its data sheet training has been seen to reach. Torch-free."""

from dataclasses import dataclass

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

MEMORY_SHARE = 0.9
"""Share of the data sheet's rate that a copy reaches. For work whose reads and writes are counted; where results alone
are seen, `MOVES` stands for all of it."""


@dataclass(frozen=True)
class Device:
    """One rank's device and its way to others. Rates are per second and one way."""

    name: str
    bf16_flops: float  # of dense products
    fp32_flops: float  # of products in full fp32, torch's default: without TF32
    memory_bytes: int
    memory_bandwidth: float  # bytes
    kernel_seconds: float  # of an operation, beside its work
    node_link: float  # bytes, to peers in the same node
    fabric_link: float  # bytes, through one port of the node
    per_node: int
    is_gpu: bool
    source: str
    ports: int | None = None  # of a node; None: one a device
    processors: int = 1  # that share out the tiles of a product (SMs)

    def peak_flops(self, *, bf16: bool) -> float:
        """FLOP/s of products in a run's precision."""
        return self.bf16_flops if bf16 else self.fp32_flops

    @property
    def node_ports(self) -> int:
        """Of a whole node."""
        return self.per_node if self.ports is None else self.ports
