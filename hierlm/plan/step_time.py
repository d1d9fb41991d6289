"""How long a step should take: products, what else is read and written, kernels, messages, the pipeline's bubble.

Nothing overlaps with anything: DeepSpeed's `overlap_comm` is off (`hierlm.parallel.zero`), and messages between
tensor-parallel ranks and stages wait for what they carry.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hierlm.parallel.degrees import Degrees
from hierlm.plan.communication import Traffic
from hierlm.plan.device import LINK_SHARE, MOVES, PRODUCT_SHARE, Device
from hierlm.plan.zero_memory import ADAMW_STATES, FULL


@dataclass(frozen=True)
class StageWork:
    """What a rank of one stage does in a step."""

    flops: float  # of a micro-batch, recompute included, as are the next two
    made_bytes: int  # results of operations
    kernels: int  # operations with a result of their own
    traffic: Traffic
    num_values: int


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, by cause; the slowest stage decides."""

    products: float
    memory: float  # reading and writing between them
    kernels: float  # starting and ending them
    tensor_messages: float
    boundary_messages: float
    data_messages: float
    update: float
    bubble: float  # waiting for the pipeline to fill and drain

    @property
    def compute(self) -> float:
        """Of a rank by itself, all micro-batches."""
        return self.products + self.memory + self.kernels

    @property
    def total(self) -> float:
        return sum(asdict(self).values())

    def document(self) -> dict[str, float]:
        """As plain data."""
        return {**{f"{name}_seconds": seconds for name, seconds in asdict(self).items()}, "step_seconds": self.total}


def step_time(
    stages: Sequence[StageWork],
    *,
    micro_batches: int,
    degrees: Degrees,
    device: Device,
    bf16: bool,
    num_states: int = ADAMW_STATES,
) -> StepTime:
    """Of a layout on a device, with an optimizer of so many states."""
    update_bytes = FULL * (2 * (1 + num_states) + 1)  # weight and states are read and written, the gradient is read
    within = _Links(degrees, device)
    slowest = max((_effort(stage, device, bf16=bf16) for stage in stages), key=sum)
    products, memory, kernels = (micro_batches * seconds for seconds in slowest)
    tensor = max(stage.traffic.tensor for stage in stages) / within.tensor
    boundary = max(stage.traffic.boundary for stage in stages) / within.pipeline
    return StepTime(
        products=products,
        memory=memory,
        kernels=kernels,
        tensor_messages=tensor,
        boundary_messages=boundary,
        data_messages=max(stage.traffic.data for stage in stages) / within.data,
        update=max(stage.num_values for stage in stages) * update_bytes / device.memory_bandwidth,
        bubble=(degrees["pipeline"] - 1) / micro_batches * (products + memory + kernels + tensor + boundary),
    )


def _effort(stage: StageWork, device: Device, *, bf16: bool) -> tuple[float, float, float]:
    """Seconds of a micro-batch: products, memory, kernels."""
    return (
        stage.flops / (PRODUCT_SHARE * device.peak_flops(bf16=bf16)),
        MOVES * stage.made_bytes / device.memory_bandwidth,
        stage.kernels * device.kernel_seconds,
    )


class _Links:
    """Bytes per second between the peers of each axis; neighbours on the tensor axis are next to each other."""

    def __init__(self, degrees: Degrees, device: Device) -> None:
        self._device = device
        self.tensor = self._link(span=degrees["tensor"])
        self.data = self._link(span=degrees["tensor"] * degrees["data"])
        self.pipeline = self._link(span=degrees.world_size)

    def _link(self, *, span: int) -> float:
        device = self._device
        return LINK_SHARE * (device.node_link if span <= device.per_node else device.fabric_link)
