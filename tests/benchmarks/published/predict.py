"""A row's layout through `hierlm.plan.step_time`, with the plan's devices and constants."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from hierlm.plan.communication import Traffic
from hierlm.plan.device import MEMORY_SHARE, USABLE_MEMORY, Device
from hierlm.plan.device_file import shipped
from hierlm.plan.step_time import StageWork, StepTime, step_time
from tests.benchmarks.published.layer_counts import BYTES, Block, activation_bytes, block, head
from tests.benchmarks.published.rows import Row
from tests.benchmarks.published.systems import System, stretches_of, system_of

MODEL_BYTES = 18
"""Of each weight: two copies of 2 and 4 bytes, a gradient of 4, two moments of 4 (2104.04473's fp16 training)."""

MOST_ROWS = 16


class Prediction(NamedTuple):
    """What the plan says."""

    time: StepTime
    micro_batch: int
    stretches: int
    system: str

    def off(self, row: Row) -> float:
        """Predicted over measured, less one."""
        return self.time.total / row.step_seconds - 1


def predict(row: Row) -> Prediction:
    """The fastest of what the row leaves open; ValueError for a row that the plan has no figures for."""
    if row.precision not in ("bf16", "fp16"):
        raise ValueError(f"{row.precision}: devices have figures of bf16 and fp32")
    system, device = system_of(row), shipped(row.device)
    found = [_of(row, system, device, rows=rows, stretches=number) for rows, number in _open(row, system, device)]
    return min(found, key=lambda each: each.time.total)


def _open(row: Row, system: System, device: Device) -> Iterator[tuple[int, int]]:
    """(Rows of a micro-batch, interleaved stretches) that fit; interleaving wants whole rounds of the stages."""
    share, stages = row.global_batch // row.degrees["data"], row.degrees["pipeline"]
    if row.micro_batch is not None:
        yield from ((row.micro_batch, number) for number in stretches_of(row))
        return
    for rows in (2**power for power in range(MOST_ROWS.bit_length())):
        for number in stretches_of(row):
            fits = rows == 1 or _bytes(row, system, rows=rows) <= USABLE_MEMORY * device.memory_bytes
            if share % rows == 0 and fits and (number == 1 or share // rows % stages == 0):
                yield rows, number


def _bytes(row: Row, system: System, *, rows: int) -> float:
    stages = row.degrees["pipeline"]
    micro_batches = row.global_batch // row.degrees["data"] // rows
    kept = activation_bytes(row, system, rows=rows, in_flight=min(stages, micro_batches))
    return kept + MODEL_BYTES * _layer_values(row) * row.num_layers / stages


def _of(row: Row, system: System, device: Device, *, rows: int, stretches: int) -> Prediction:
    found = block(row, system, device, rows=rows)
    stages, micro_batches = row.degrees["pipeline"], row.global_batch // row.degrees["data"] // rows
    works = [
        _work(row, system, device, found, rows=rows, stage=stage, stretches=stretches, micro_batches=micro_batches)
        for stage in range(stages)
    ]
    time = step_time(
        works,
        micro_batches=micro_batches,
        degrees=row.degrees,
        device=device,
        bf16=True,
        zero_stage=row.zero_stage,
        schedule=replace(system.schedule, virtual_stages=stretches),
    )
    return Prediction(time, rows, stretches, system.name)


def _work(
    row: Row, system: System, device: Device, of: Block, *, rows: int, stage: int, stretches: int, micro_batches: int
) -> StageWork:
    num_layers, stages = row.num_layers / row.degrees["pipeline"], row.degrees["pipeline"]
    again = of.recomputed(row.recompute)
    work = of.forward.plus(of.backward).plus(again).times(num_layers)
    if stage == stages - 1:
        work = work.plus(head(row, system, device, rows=rows))
    values = of.weights * num_layers
    if stage in (0, stages - 1):
        values += row.vocab_size * row.hidden_dim / row.degrees["tensor"]
    whole = BYTES * rows * row.sequence_length * row.hidden_dim
    return StageWork(
        flops=work.flops,
        moved_bytes=(work.moved + system.gradient_moves * of.weights * num_layers) / MEMORY_SHARE,
        kernels=work.kernels,
        traffic=_traffic(row, values, whole, num_layers, stretches=stretches, micro_batches=micro_batches),
        updated_values=values / (row.degrees["data"] if row.zero_stage else 1),
        pieces=round(num_layers),
        forward_share=of.forward.flops / (of.forward.plus(of.backward).plus(again)).flops,
    )


def _traffic(row: Row, values: float, whole: int, num_layers: float, *, stretches: int, micro_batches: int) -> Traffic:
    """Tensor-parallel ranks sum `whole` bytes twice on every way through a block, a boundary is cut over them."""
    t, d = row.degrees["tensor"], row.degrees["data"]
    ring, slices = (d - 1) / d * values * BYTES, (t - 1) / t
    sums = 2 * (3 if row.recompute == "full" else 2)
    boundaries = 2 * stretches * whole if row.degrees["pipeline"] > 1 else 0
    passes = micro_batches if row.zero_stage == 3 else 1
    return Traffic(
        gradients=int(passes * ring * (2 if row.zero_stage == 0 else 1)),
        weights=int(2 * passes * ring) if row.zero_stage == 3 else 0,
        tensor=int(micro_batches * (num_layers * sums * 2 * whole * slices + boundaries * slices)),
        boundary=int(micro_batches * boundaries / t),
    )


def _layer_values(row: Row) -> float:
    """A block's on one rank."""
    return (4 * row.hidden_dim**2 + 2 * row.hidden_dim * row.ffn_dim) / row.degrees["tensor"]
