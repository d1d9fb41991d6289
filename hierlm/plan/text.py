"""A plan for people: units on every number, at most 100 columns."""

from collections.abc import Iterator
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from hierlm.plan.device import GIB
from hierlm.plan.estimate import Estimate, PhaseEstimate
from hierlm.plan.layouts import MOST_DEVICES, changes
from hierlm.plan.memory import StageMemory
from hierlm.plan.plan import Plan, bubble_fraction

WIDTH = 100
MOST_STAGES = 8
"""Stages shown one by one; of more, the fullest and the last."""


def show(plan: Plan) -> None:
    """Print it."""
    console = Console(width=WIDTH, highlight=False, soft_wrap=False)
    for line in _head(plan):
        console.print(line)
    for phase in plan.estimate.phases:
        console.print()
        console.print(_phase_line(phase))
        console.print(_memory_table(phase))
        logits = phase.stages[-1].logits
        unit = _unit(logits)
        console.print(f"  logits and what the loss makes of them: {unit(logits)} {unit.name}, at the loss")
        console.print(_time_line(phase))
    console.print()
    console.print(_verdict(plan))
    if plan.alternatives:
        console.print(_alternatives(plan))
        if plan.scaling is not None:
            console.print(plan.scaling.line)
    elif plan.is_search:
        console.print(f"no layout of {plan.num_alternative_devices} devices fits")
    elif not plan.estimate.fits:
        console.print(f"no layout of up to {MOST_DEVICES} devices fits")
    console.print("not modelled:")
    for each in plan.not_modelled:
        console.print(f"  - {each}")


def _head(plan: Plan) -> Iterator[str]:
    estimate, layout = plan.estimate, plan.estimate.layout
    yield (
        f"{plan.config.name}: {plan.config.model.arch}, {plan.num_parameters:,} parameters, "
        f"{plan.config.train.precision}, on {layout.world_size} x {estimate.device.name}"
    )
    yield (
        f"data {layout.data_parallel_degree} x tensor {layout.tensor_parallel_degree} x pipeline "
        f"{layout.pipeline_parallel_degree}, ZeRO {layout.zero_stage}, recompute {layout.activation_recompute}"
    )
    if layout.pipeline_parallel_degree > 1:
        firsts = ", ".join(map(str, estimate.cut.boundaries[1:-1]))
        yield (
            f"stage cut: first layers 0, {firsts} of {estimate.cut.boundaries[-1]}; imbalance (slowest stage over "
            f"mean) {estimate.cut.imbalance:.1%}, equal layer counts {estimate.uniform_cut.imbalance:.1%}"
        )


def _phase_line(each: PhaseEstimate) -> str:
    flops, phase = each.flops, each.phase
    return (
        f"phase {phase.name}: {phase.global_batch_size} rows of {phase.sequence_length} tokens a step; per rank "
        f"{each.micro_batches} micro-batches of {each.micro_batch_size}\n"
        f"  FLOPs per token: forward {_short(flops.forward)}, backward {_short(flops.backward)}, "
        f"recompute {_short(flops.recompute)}"
    )


def _memory_table(each: PhaseEstimate) -> Table:
    unit = _unit(each.fullest.peak.total)
    table = _table(f"  {unit.name} per rank at its peak")
    for title in ("stage", "weights", "grads", "optim.", "activ.", "temp.", "logits", "peak", "in flight", "at"):
        table.add_column(title, justify="left" if title in ("stage", "at") else "right", no_wrap=True)
    for stage in _shown(each):
        peak = stage.peak
        held = (peak.weights, peak.gradients, peak.optimizer)
        parts = (*held, peak.activations, peak.temporary, peak.logits, peak.total)
        table.add_row(f"  {stage.stage}", *(unit(part) for part in parts), str(stage.in_flight), peak.moment)
    return table


def _shown(each: PhaseEstimate) -> list[StageMemory]:
    if len(each.stages) <= MOST_STAGES:
        return list(each.stages)
    chosen = {stage.stage: stage for stage in (each.stages[0], each.fullest, each.stages[-1])}
    return [chosen[number] for number in sorted(chosen)]


def _time_line(each: PhaseEstimate) -> str:
    time, flow = each.time, max(each.traffic, key=lambda t: t.data + t.tensor + t.boundary)
    unit = _unit(flow.data + flow.tensor + flow.boundary)
    messages = f"gradients {unit(flow.gradients)}, weights {unit(flow.weights)}, tensor {unit(flow.tensor)}"
    lines = [
        f"  sent per step and rank ({unit.name}): {messages}, boundaries {unit(flow.boundary)}",
        f"  step: {_seconds(time.total)} = products {_seconds(time.products)} + memory between them "
        f"{_seconds(time.memory)} + kernels {_seconds(time.kernels)}",
        f"        + tensor messages {_seconds(time.tensor_messages)} + boundaries {_seconds(time.boundary_messages)} "
        f"+ data messages {_seconds(time.data_messages)}"
        f"{_hidden(time.hidden_messages)}",
        f"        + update {_seconds(time.update)} + bubble {_seconds(time.bubble)} "
        f"({bubble_fraction(len(each.stages), each.micro_batches):.0%} of the pipeline)",
        f"  {each.tokens_per_second:,.0f} tokens/s, MFU {each.mfu:.1%}",
    ]
    return "\n".join(lines)


def _hidden(seconds: float) -> str:
    return f" (beside work {_seconds(seconds)})" if seconds else ""


def _verdict(plan: Plan) -> str:
    estimate = plan.estimate
    unit, gib = _unit(estimate.peak_bytes), _Unit("GiB", GIB)
    word = "fits" if estimate.fits else "does NOT fit"
    return (
        f"{word}: {unit(estimate.peak_bytes)} {unit.name} on the fullest rank, {gib(estimate.usable_bytes)} of "
        f"{gib(estimate.device.memory_bytes)} GiB of a {estimate.device.name} for tensors; "
        f"all steps {_seconds(estimate.seconds)}"
    )


def _alternatives(plan: Plan) -> Table:
    what = "fastest layouts that fit" if plan.is_search else "nearest layouts that fit, fastest first"
    table = _table(f"{what}, {plan.num_alternative_devices} devices:")
    unit = _unit(max(each.peak_bytes for each in plan.alternatives))
    for title in ("", "all steps", "step", "MFU", f"peak {unit.name}", "differs by"):
        table.add_column(title, justify="left" if title == "differs by" else "right")
    for rank, each in enumerate(plan.alternatives, start=1):
        phase = _longest(each)
        words = " ".join(f"{key}={value}" for key, value in changes(plan.config.parallel, each.layout).items())
        figures = (_seconds(each.seconds), _seconds(phase.time.total), f"{phase.mfu:.1%}", unit(each.peak_bytes))
        table.add_row(f"{rank}", *figures, words or "nothing")
    return table


def _table(title: str) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left")


def _longest(each: Estimate) -> PhaseEstimate:
    return max(each.phases, key=lambda phase: phase.time.total * phase.phase.num_steps)


class _Unit(NamedTuple):
    """What bytes are told in: one unit a table, so that columns can be compared."""

    name: str
    size: int

    def __call__(self, number: float) -> str:
        return f"{number / self.size:,.2f}"


def _unit(largest: float) -> _Unit:
    return _Unit("GiB", GIB) if largest >= GIB else _Unit("MiB", 2**20)


def _short(number: float) -> str:
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= limit:
            return f"{number / limit:.2f} {letter}"
    return f"{number:.0f}"


def _seconds(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:,.1f} h"
    if seconds >= 1:
        return f"{seconds:,.2f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 or seconds == 0 else f"{seconds * 1e6:.1f} us"
