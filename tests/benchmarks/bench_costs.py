"""Training step time and peak memory against sequence length, depth, width and data-parallel degree.

    python -m tests.benchmarks.bench_costs [--quick]

Forward, loss, backward and AdamW on one row, one thread, fp32; the time is processor time, the median of rounds in
which all sizes of a curve take turns. Ranks that train together wait for each other, so theirs is wall time of
`Engine.train_step`, with one row a rank. Memory is the peak of tensor bytes: of a step above weights and moments; of
ranks, all of it. The plot goes to costs.svg beside RESULTS.md; `--quick` measures a few small sizes and draws nothing.
"""

import argparse
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
import torch.nn.functional as F

from hierlm import models
from hierlm.config.load import load_config
from tests.benchmarks.cost_curves import CostCurve, Point, draw, table
from tests.benchmarks.memory import peak_tensor_bytes
from tests.conftest import ROOT
from tests.distributed.spawn import run_ranks
from tests.plan.measuring import measured_peaks

PLOT = Path(__file__).with_name("costs.svg")
ROUNDS = 3
LONGEST_SECONDS = 120.0
"""A size that should take longer, all its repeats together, is left out."""

MEMORY_SHARE = 0.4
"""Of the machine's free memory a size may take."""

MOST_GROWTH = 4.0
"""By how much time and memory are taken to grow where a size doubles: a square."""

Step = Callable[[], object]

ARCHS = ("transformer", "hourglass", "transformer_xl", "lmu")
TOKENS, LAYERS, WIDTHS, RANKS = tuple(2**n for n in range(8, 15)), (4, 8, 16, 32), (64, 128, 256, 512), (1, 2, 4)
SMALL = {"hidden_dim": 32, "ffn_dim": 64, "num_heads": 2}
"""So narrow that 16384 tokens run."""

LENGTH = 256
"""Tokens where the length is not what varies."""


class Trained:
    """One model at one size; a call is one step."""

    def __init__(self, arch: str, *, length: int, changes: dict[str, Any]) -> None:
        self._model = models.from_config({"model": _part(arch, changes)}, seed=0).train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3, fused=True)
        generator = torch.Generator().manual_seed(0)
        self._rows = torch.randint(self._model.config.vocab_size, (1, length + 1), generator=generator)

    def __call__(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        logits, _ = self._model(self._rows[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), self._rows[:, 1:].flatten()).backward()
        self._optimizer.step()


def curve(arch: str, axis: str, sizes: Sequence[int]) -> CostCurve:
    """One model along one axis, in this process."""
    steps: dict[int, Step] = {}
    peaks: dict[int, int] = {}
    left_out = ""
    for size in sizes:
        step = _at(arch, axis, size)
        if reason := _too_dear(steps, peaks):
            left_out = f"{axis} {size} and more, predicted to take {reason}"
            break
        if not steps:
            step()  # what libraries set up once
        steps[size], peaks[size] = step, peak_tensor_bytes(step)
    taken: dict[int, list[float]] = {size: [] for size in steps}
    for index in range(ROUNDS):
        for size in reversed(taken) if index % 2 else taken:
            taken[size].append(_seconds(steps[size]))
    points = [Point(size, median(taken[size]), peaks[size]) for size in taken]
    return CostCurve(arch, axis, points, left_out)


def _too_dear(steps: dict[int, Step], peaks: dict[int, int]) -> str:
    """Why twice the largest size so far should not be tried; empty where it may."""
    if not steps:
        return ""
    largest = max(steps)
    seconds = _seconds(steps[largest]) * MOST_GROWTH * (ROUNDS + 1)
    size, free = peaks[largest] * MOST_GROWTH, psutil.virtual_memory().available * MEMORY_SHARE
    if seconds > LONGEST_SECONDS:
        return f"{seconds:.0f} s, more than {LONGEST_SECONDS:.0f}"
    return f"{size / 2**30:.1f} GiB, more than {free / 2**30:.1f}" if size > free else ""


def _seconds(step: Step) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def _at(arch: str, axis: str, size: int) -> Trained:
    changes = {
        "tokens": SMALL,
        "layers": {**SMALL, **_depth(arch, size)},
        "width": {"hidden_dim": size, "ffn_dim": 4 * size, "num_heads": 2},
    }[axis]
    return Trained(arch, length=size if axis == "tokens" else LENGTH, changes=changes)


def _depth(arch: str, layers: int) -> dict[str, Any]:
    return {"hierarchy": f"1@1 {layers - 2}@3 1@1"} if arch == "hourglass" else {"num_layers": layers}


def _part(arch: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The model of a tiny config, changed where it has such a field."""
    own = models.architecture(arch).Config.model_fields
    overrides = [f"model.{name}={value}" for name, value in changes.items() if name in own]
    plain: dict[str, Any] = load_config(_tiny(arch), overrides).model.model_dump(mode="json")
    return plain


def _tiny(arch: str) -> Path:
    return ROOT / "configs" / "tiny" / f"{arch}.yaml"


def curve_over_ranks(arch: str, sizes: Sequence[int]) -> CostCurve:
    """One model in several processes, each with one row of a growing batch and, by ZeRO 1, a share of the moments."""
    points = []
    for ranks in sizes:
        overrides = [
            "data.path=unused",
            f"parallel.data_parallel_degree={ranks}",
            "parallel.zero_stage=1",
            f"phases.0.global_batch_size={ranks}",
            f"phases.0.sequence_length={LENGTH}",
        ]
        seconds = run_ranks(_step_of_this_rank, ranks, str(_tiny(arch)), overrides)
        points.append(Point(ranks, max(seconds), max(measured_peaks(str(_tiny(arch)), overrides))))
    return CostCurve(arch, "ranks", points)


def _step_of_this_rank(path: str, overrides: list[str], rounds: int = 9) -> float:
    """Median wall seconds of a step."""
    from hierlm.parallel.engine import Engine
    from hierlm.parallel.process import start_processes
    from hierlm.phases.timeline import Timeline

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)  # it warns on stdout of what we chose
    config = load_config(path, overrides)
    engine, timeline, taken = Engine(config, process=start_processes()), Timeline(config.phases), []
    rows = torch.randint(config.model.vocab_size, (1, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    for step in range(rounds + 1):
        began = time.perf_counter()
        loss = engine.train_step(rows[:, :-1], rows[:, 1:], moment=timeline.at(step)).loss
        loss.item()
        taken.append(time.perf_counter() - began)
    return median(taken[1:])


def measured(*, quick: bool) -> Iterator[CostCurve]:
    """All curves, one after the other."""
    archs = ARCHS[:1] + ARCHS[3:] if quick else ARCHS
    most = 3 if quick else None
    for arch in archs:
        yield curve(arch, "tokens", TOKENS[:most])
        yield curve(arch, "layers", LAYERS[:most])
        yield curve(arch, "width", WIDTHS[:most])
        yield curve_over_ranks(arch, RANKS[: 2 if quick else None])


def main() -> None:
    """Print the table as it grows and draw the plot."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_costs", allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a few small sizes, no plot")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    curves: list[CostCurve] = []
    for found in measured(quick=quick):
        curves.append(found)
        print("\n".join(table([found]).splitlines()[len(curves) > 1 :]), flush=True)
    print(f"ranks share {os.cpu_count()} cores: with more ranks than cores a step takes as many times longer")
    if not quick:
        draw(curves, PLOT, title="One training step, fp32 on CPU: measured points and fitted exponents")
        print(f"plot: {PLOT.name}")


if __name__ == "__main__":
    main()
