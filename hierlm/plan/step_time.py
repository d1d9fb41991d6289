"""How long a step should take: products, what else is read and written, kernels, messages, the pipeline's bubble.

What passes beside what is `hierlm.plan.schedule`. The door for work that was not traced: `StageWork` made of counts of
one's own, `step_time` with a `Schedule` of one's own.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hierlm.parallel.degrees import Degrees
from hierlm.plan.communication import Traffic
from hierlm.plan.device import PRODUCT_SHARE, Device
from hierlm.plan.links import Links
from hierlm.plan.schedule import AS_BUILT, FORWARD_SHARE, DataMessages, Schedule, exposed_seconds
from hierlm.plan.zero_memory import ADAMW_STATES, FULL


@dataclass(frozen=True)
class StageWork:
    """What a rank of one stage does in a step."""

    flops: float  # of a micro-batch, recompute included, as are the next two
    moved_bytes: float  # read and written between products
    kernels: int  # operations with a result of their own
    traffic: Traffic
    updated_values: float  # whose update this rank makes: its share under ZeRO
    pieces: int = 1  # layers or buckets that messages between data-parallel ranks come in
    forward_share: float = FORWARD_SHARE  # of a micro-batch's work


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, by cause; the slowest stage decides."""

    products: float
    memory: float  # reading and writing between them
    kernels: float  # starting and ending them
    tensor_messages: float
    boundary_messages: float
    data_messages: float  # what of them nothing hides
    update: float
    bubble: float  # waiting for the pipeline to fill and drain
    hidden_messages: float = 0.0  # between data-parallel ranks beside work: no part of the total

    @property
    def compute(self) -> float:
        """Of a rank by itself, all micro-batches."""
        return self.products + self.memory + self.kernels

    @property
    def total(self) -> float:
        return sum(asdict(self).values()) - self.hidden_messages

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
    zero_stage: int = 1,
    schedule: Schedule = AS_BUILT,
) -> StepTime:
    """Of a layout on a device, with an optimizer of so many states."""
    update_bytes = FULL * (2 * (1 + num_states) + 1)  # weight and states are read and written, the gradient is read
    links = Links(degrees, device)
    efforts = [_effort(stage, device, bf16=bf16) for stage in stages]
    products, memory, kernels = (micro_batches * seconds for seconds in max(efforts, key=sum))
    tensor = max(stage.traffic.tensor for stage in stages) / links.tensor
    boundary = max(stage.traffic.boundary for stage in stages) / links.pipeline
    alone, waited = 0.0, 0.0
    for stage, effort in zip(stages, efforts, strict=True):
        messages = _data_messages(stage, links, zero_stage=zero_stage)
        beside = sum(effort) + stage.traffic.tensor / links.tensor / micro_batches
        passes = micro_batches if zero_stage == 3 else 1
        seconds = exposed_seconds(
            messages, schedule, micro_batch_seconds=beside, forward_share=stage.forward_share, passes=passes
        )
        waited, alone = max((waited, alone), (seconds, messages.total))
    messages_each = (tensor + boundary) / micro_batches
    others = sum(map(sum, efforts)) - max(map(sum, efforts)) + (len(stages) - 1) * messages_each
    return StepTime(
        products=products,
        memory=memory,
        kernels=kernels,
        tensor_messages=tensor,
        boundary_messages=boundary,
        data_messages=waited,
        update=max(stage.updated_values for stage in stages) * update_bytes / device.memory_bandwidth,
        bubble=others / schedule.virtual_stages,  # a micro-batch through all other stages
        hidden_messages=max(alone - waited, 0.0),
    )


def _effort(stage: StageWork, device: Device, *, bf16: bool) -> tuple[float, float, float]:
    """Seconds of a micro-batch: products, memory, kernels."""
    return (
        stage.flops / (PRODUCT_SHARE * device.peak_flops(bf16=bf16)),
        stage.moved_bytes / device.memory_bandwidth,
        stage.kernels * device.kernel_seconds,
    )


def _data_messages(stage: StageWork, links: Links, *, zero_stage: int) -> DataMessages:
    flow = stage.traffic
    weights, is_partitioned = flow.weights / links.data, zero_stage == 3
    return DataMessages(
        gradients=flow.gradients / links.data,
        forward_gathers=weights / 2 * is_partitioned,
        backward_gathers=weights / 2 * is_partitioned,
        gathers_after_update=weights * (not is_partitioned),
        pieces=stage.pieces,
    )
