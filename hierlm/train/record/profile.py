"""`train.profile`: a trace of a few steps for Perfetto, and tables of where their time went, by layer and by operator.

Layers are told by the spans `hierlm.parallel.recompute.run_layers` puts around them while a profiler runs. Work of the
backward pass carries the sequence number of the forward operation it belongs to, and so is told by layer too.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from hierlm.parallel.recompute import LAYER_SPAN
from hierlm.run_dir import RunDir
from hierlm.train.config import ProfileConfig
from hierlm.train.loop import Completed
from hierlm.train.record.console import Console

NUM_OPERATORS = 40
"""Rows of the table by operator."""

OUTSIDE = "outside the layers: loss, optimizer, communication, data"


class ProfileHook:
    """Traces the steps asked for on every rank; evaluations and saves between them are in the trace, under no step."""

    def __init__(
        self,
        wanted: ProfileConfig,
        *,
        run_dir: RunDir,
        device: torch.device,
        rank: int,
        first_step: int,
        console: Console,
    ) -> None:
        """`first_step` completed steps lie behind the attempt: one that begins inside the range traces the rest."""
        self._wanted, self._run_dir, self._rank, self._console = wanted, run_dir, rank, console
        self._on_gpu = device.type == "cuda"
        self._next = first_step + 1
        self._first_traced = self._next
        self._profiler: profile | None = None
        self._step_span: record_function | None = None

    def before_step(self) -> None:
        if not self._wanted.first <= self._next <= self._wanted.last:
            return
        if self._profiler is None:
            self._first_traced = self._next
            self._profiler = profile(activities=_activities(on_gpu=self._on_gpu))
            self._profiler.start()
        self._step_span = record_function(f"step {self._next}")
        self._step_span.__enter__()

    def after_step(self, completed: Completed) -> None:
        if self._step_span is not None:
            self._step_span.__exit__(None, None, None)
            self._step_span = None
        self._next = completed.step + 1
        if completed.step == self._wanted.last:
            self._write(last=completed.step)

    def waits_for(self, step: int) -> bool:
        """The trace ends when the device is through."""
        return step == self._wanted.last

    def on_stop(self, *, step: int) -> None:
        self._write(last=step)

    def _write(self, *, last: int) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        profiler.stop()
        trace, table = self._run_dir.profile_trace(self._rank), self._run_dir.profile_table(self._rank)
        steps = f"steps {self._first_traced} to {last}"
        try:
            trace.parent.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(trace))
            table.write_text(f"{steps}, rank {self._rank}\n\n{tables(profiler, on_gpu=self._on_gpu)}")
        except OSError as error:  # a full disk is no reason to end
            self._console.say_from_any_rank(f"profile of {steps} could not be written: {error}")
            return
        self._console.say(f"profile of {steps}: {table}; open {trace.name} beside it at https://ui.perfetto.dev")


def tables(profiler: profile, *, on_gpu: bool) -> str:
    """Milliseconds by layer and pass, then by operator, the dearest first."""
    events = profiler.events()
    assert events is not None
    kind = "device" if on_gpu else "cpu"
    by_layer = milliseconds_by_layer(events, kind=kind)
    total = sum(map(sum, by_layer.values())) or 1.0
    rows = [
        f"{name:<56}{forward:>14.3f}{backward:>14.3f}{(forward + backward) / total:>10.1%}"
        for name, (forward, backward) in sorted(by_layer.items(), key=lambda item: -sum(item[1]))
    ]
    header = f"{'layer':<56}{'forward ms':>14}{'backward ms':>14}{'share':>10}"
    operators = profiler.key_averages().table(sort_by=f"self_{kind}_time_total", row_limit=NUM_OPERATORS)
    return "\n".join((header, *rows, "", operators))


def milliseconds_by_layer(events: Iterable[Any], *, kind: str) -> dict[str, tuple[float, float]]:
    """Layer -> (forward, backward): the self time of all operators that belong to it; kind is cpu or device."""
    events = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    layer_of_sequence = {
        event.sequence_nr: layer for event in events if event.sequence_nr >= 0 and (layer := _layer_around(event))
    }
    spent: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for event in events:
        backward = _backward_root(event)
        layer = _layer_around(event)
        if layer is None and backward is not None:
            layer = layer_of_sequence.get(backward.sequence_nr)
        spent[layer or OUTSIDE][backward is not None] += getattr(event, f"self_{kind}_time_total") / 1000
    return {name: (forward, backward) for name, (forward, backward) in spent.items()}


def _activities(*, on_gpu: bool) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]


def _layer_around(event: Any) -> str | None:
    """The innermost layer's span an operator ran in."""
    while event is not None:
        if event.name.startswith(LAYER_SPAN):
            return str(event.name)
        event = event.cpu_parent
    return None


def _backward_root(event: Any) -> Any:
    """The node of autograd an operator ran for; None in the forward pass."""
    while event is not None:
        if event.name.startswith("autograd::engine::evaluate_function"):
            return event
        event = event.cpu_parent
    return None
