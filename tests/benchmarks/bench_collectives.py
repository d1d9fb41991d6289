"""The messages of one training step in each layout, counted, beside the fewest there can be.

    python -m tests.benchmarks.bench_collectives [WORD ...]      only the layouts with one of the words in their names

Real processes over gloo train a small transformer; `tests.benchmarks.messages` counts the third step. A value counts
once for each time it must pass a rank's door (an all-reduce 2, all others 1), so n values of gradients and n of weights
are the least that a data-parallel step with a divided optimizer can do: 2 n, and 3 n where the weights are divided too.
n is what one rank of the tensor- and pipeline-parallel groups holds.

A new layout is a `Case`; a new promise is a `Promise` in its list. One that is known to be broken still says so in
`not_yet`, by what will keep it: it is printed, fails nothing, and fails when it is kept after all (take the mark away).
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tests.benchmarks.messages import Message, counted
from tests.distributed.runs import Layout, _text
from tests.distributed.spawn import run_ranks

LAYERS, HIDDEN, LENGTH, MICRO_BATCHES = 4, 64, 16, 4
MODEL = (
    f"model.num_layers={LAYERS}",
    f"model.hidden_dim={HIDDEN}",
    "model.num_heads=4",
    f"model.ffn_dim={4 * HIDDEN}",
    f"phases.0.sequence_length={LENGTH}",
    "phases.0.duration.steps=8",
    "parallel.micro_batch_size=2",
)
AXES = ("data", "tensor", "pipeline", "model")
WARM_UP = 2  # steps: ZeRO 3 learns the order of layers in the first


class Kind(NamedTuple):
    """What one row of a table is about."""

    axis: str  # data, tensor, pipeline, or the axes that a group varies over
    kind: str


class Step(NamedTuple):
    """What a rank sent in one step."""

    num_parameters: int  # n
    messages: Mapping[Kind, Sequence[Message]]

    def values(self, axis: str, *kinds: str) -> int:
        return sum(message.values for message in self.chosen(axis, *kinds))

    def chosen(self, axis: str, *kinds: str) -> list[Message]:
        """Those of an axis, and of some kinds where there are any given."""
        rows = (sent for key, sent in self.messages.items() if key.axis == axis and (not kinds or key.kind in kinds))
        return [message for sent in rows for message in sent]


class Promise(NamedTuple):
    """The most that a step may send, on the rank that sends most."""

    what: str
    found: Callable[[Step], float]
    bound: float
    not_yet: str = ""

    def line(self, found: float) -> tuple[str, bool]:
        """What is printed, and whether all is as it says."""
        holds = found <= self.bound
        verdict = ("holds" if holds else "MISSED") if not self.not_yet else f"not yet: {self.not_yet}"
        if holds and self.not_yet:
            verdict = f"holds, though marked as not yet ({self.not_yet})"
        return f"    {self.what:<62}{found:>9.3f}  claimed <= {self.bound:.3f}  {verdict}", holds != bool(self.not_yet)


class Case(NamedTuple):
    """A layout and what is promised of it."""

    layout: Layout
    promises: Sequence[Promise]
    precision: str = "fp32"
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        words = [word.partition("=")[0].rpartition(".")[2] for word in self.more]
        return " ".join([str(self.layout), self.precision, *words])

    @property
    def overrides(self) -> list[str]:
        rows = 2 * MICRO_BATCHES * self.layout.dp
        words = [*MODEL, f"phases.0.global_batch_size={rows}", f"train.precision={self.precision}"]
        return [*words, *self.layout.overrides, *self.more]


def data_values(step: Step) -> float:
    """Over data-parallel ranks, in n."""
    return step.values("data") / step.num_parameters


def data_values_a_micro_batch(step: Step) -> float:
    return data_values(step) / MICRO_BATCHES


ACTIVATION = 2 * LENGTH * HIDDEN  # values of one micro-batch between two layers


def all_reduces_a_layer(step: Step) -> float:
    """Of whole activations, a layer and micro-batch; those of embedding, head and loss are left out of the count."""
    whole = [message for message in step.chosen("tensor", "all_reduce") if message.sizes[0] >= ACTIVATION]
    return (len(whole) / MICRO_BATCHES - 2) / LAYERS


def small_all_reduces(step: Step) -> float:
    """Over tensor-parallel ranks, smaller than an activation, without those of the loss: per step."""
    sent = (message for message in step.chosen("tensor", "all_reduce") if message.sizes[0] < ACTIVATION)
    return float(sum(message.sizes[0] > 2 * LENGTH for message in sent))


def activations_a_layer(step: Step) -> float:
    """Gathers and reduce-scatters over tensor-parallel ranks, in whole activations a layer and micro-batch; over gloo
    ranks exchange parts and add up their own, which is a reduce-scatter. The two at the ends of the stack are left out.
    """
    whole = step.values("tensor", "all_gather", "reduce_scatter", "all_to_all") / (ACTIVATION * MICRO_BATCHES)
    return (whole - 2) / LAYERS


def boundary_values(step: Step) -> float:
    """Sent between stages, in activations, a micro-batch."""
    return step.values("pipeline", "send") / (ACTIVATION * MICRO_BATCHES)


def zero(stage: int, precision: str) -> Case:
    """Four data-parallel ranks; 0.02 n is left for norms and padding."""
    least = {0: Promise("values over dp, in n", data_values, 2.02)}
    divided = Promise("values over dp, in n", data_values, 2.02)
    whole = Promise("values over dp, in n, a micro-batch", data_values_a_micro_batch, 3.03)
    return Case(Layout(4, 1, 1, stage), [least.get(stage, whole if stage == 3 else divided)], precision)


TENSOR = Promise("all-reduces of activations a layer and micro-batch", all_reduces_a_layer, 4.0)
SHARES = [
    Promise("gathered and reduce-scattered activations a layer", activations_a_layer, 10.0),
    Promise("all-reduces of gradients of replicated weights a step", small_all_reduces, 1.0),
]
CASES = [
    zero(0, "fp32"),
    *(zero(stage, precision) for precision in ("fp32", "bf16") for stage in (1, 2, 3)),
    Case(Layout(1, 2, 1), [TENSOR]),
    Case(Layout(1, 4, 1), [TENSOR]),
    Case(Layout(1, 4, 1), SHARES, more=("parallel.sequence_parallel=true",)),
    Case(Layout(1, 1, 2), [Promise("activations sent a micro-batch", boundary_values, 1.01)]),
    Case(
        Layout(1, 2, 2),
        [Promise("activations sent a micro-batch", boundary_values, 0.51)],
    ),
]


def step_of_a_rank(overrides: Sequence[str]) -> Step:
    """On each rank: train, and count one step."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # DeepSpeed tells of its memory there
    from hierlm.config.load import load_config
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.parallel.seams.parameters import whole_shape
    from hierlm.phases.timeline import Timeline

    config = load_config("configs/tiny/transformer.yaml", list(overrides))
    engine, timeline = Engine(config, process=start_processes()), Timeline(config.phases)
    mine = list(engine.local_rows(config.phases[0].global_batch_size))
    for step in range(WARM_UP + 1):
        tokens, targets = _text(config.phases[0].global_batch_size, LENGTH, vocab_size=256, seed=step)
        with counted() as messages:
            engine.train_step(tokens[mine], targets[mine], moment=timeline.at(step))
    sorted_by_kind: dict[Kind, list[Message]] = defaultdict(list)
    for message in messages:
        sorted_by_kind[Kind(_axis(message, engine.groups), message.kind)].append(message)
    return Step(sum(whole_shape(parameter).numel() for parameter in engine.module.parameters()), dict(sorted_by_kind))


def _axis(message: Message, groups: Any) -> str:
    """What a message's group varies over; point to point it goes between stages, through whatever group."""
    import torch.distributed as dist

    if message.kind == "send":
        return "pipeline"
    axes = (axis for axis in AXES if tuple(dist.get_process_group_ranks(getattr(groups, axis))) == message.ranks)
    return next(axes, "others")


def table(case: Case, steps: Sequence[Step]) -> tuple[str, bool]:
    """What is printed of a layout, and whether everything is as it says."""
    lines, is_well = [f"{case.name}: n = {max(step.num_parameters for step in steps):,}"], True
    for key in sorted({key for step in steps for key in step.messages}):
        sent = [step.messages.get(key, ()) for step in steps]
        most = max(sent, key=lambda messages: sum(message.bytes for message in messages))
        values = sum(message.values for message in most)
        share = values / max(step.num_parameters for step in steps)
        bytes_ = sum(message.bytes for message in most)
        lines.append(f"    {key.axis:<9}{key.kind:<15}{len(most):>5} messages{bytes_:>12,} bytes{share:>9.3f} n")
    for promise in case.promises:
        line, is_as_told = promise.line(max(promise.found(step) for step in steps))
        lines.append(line)
        is_well &= is_as_told
    return "\n".join(lines), is_well


def main() -> None:
    """Print every table; exit code 1 where a promise is not as it says."""
    words, is_well = sys.argv[1:], True
    for case in CASES:
        if words and not any(word in case.name for word in words):
            continue
        text, holds = table(case, run_ranks(step_of_a_rank, case.layout.world_size, case.overrides))
        print(text, flush=True)
        is_well &= holds
    sys.exit(int(not is_well))


if __name__ == "__main__":
    main()
