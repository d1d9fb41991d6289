"""Training in any layout and what it leaves behind, to be compared with one process: losses, norms, moments, memory.

A process of a group that has started makes several runs one after the other, each with an engine and groups of its own.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hierlm.checkpoint.canonical import read_canonical
from hierlm.config.load import load_config
from hierlm.durable import FileWriter
from hierlm.models.assembly import is_recurrent
from hierlm.parallel.engine import TAG
from hierlm.phases.timeline import Timeline
from tests.distributed.spawn import RankFailedError, end_groups, run_ranks

RELATIVE = 1e-5
"""Of losses and norms; of a first moment, of the largest value of its tensor, or of 1e-3 of the largest of all tensors.

Some gradients are zero by symmetry (the biases of keys under a softmax) and hold noise alone.
"""
FLOOR = 1e-3
RUNS_TOGETHER = 12
"""Of one group of processes, at most: each engine makes groups that are never given back."""
MOST_SECONDS = 1200
"""After which ranks that wait for each other are given up; a machine with much else to do may need minutes."""


class Layout(NamedTuple):
    """Degrees and ZeRO stage."""

    dp: int
    tp: int
    pp: int
    zero: int = 0

    @property
    def world_size(self) -> int:
        return self.dp * self.tp * self.pp

    @property
    def overrides(self) -> list[str]:
        degrees = {"data": self.dp, "tensor": self.tp, "pipeline": self.pp}
        words = [f"parallel.{axis}_parallel_degree={degree}" for axis, degree in degrees.items()]
        return [*words, f"parallel.zero_stage={self.zero}"]

    def __str__(self) -> str:
        return f"dp{self.dp}-tp{self.tp}-pp{self.pp}-zero{self.zero}"


ALONE = Layout(1, 1, 1)


@dataclass(frozen=True)
class Run:
    """One training from the tiny config of an architecture to the end of its phases."""

    arch: str
    overrides: tuple[str, ...]
    layout: Layout = ALONE
    neutral: tuple[str, ...] = ()  # more of what may make no difference
    restarts: Mapping[int, Sequence[int]] = field(default_factory=dict)  # step -> rows that begin a new stream
    counted: float | None = None  # share of the targets that count, unevenly over rows; None: all, alike

    @property
    def words(self) -> list[str]:
        return [*self.overrides, *self.layout.overrides, *self.neutral]

    @property
    def alone(self) -> "Run":
        """The same on one process, the plain way: every step in one micro-batch."""
        return replace(self, layout=ALONE, neutral=())

    def __str__(self) -> str:
        """What reproduces it."""
        return f"configs/tiny/{self.arch}.yaml {shlex.join(self.words)}  # rows that restart: {dict(self.restarts)}"


class Outcome(NamedTuple):
    """What one process, or all of a layout, found."""

    steps: list[tuple[float, float]]  # loss and gradient norm
    nats: list[float]  # of an evaluation after each phase
    moments: dict[str, Tensor]  # the first moment of every parameter, by canonical name
    reported: Sequence[Mapping[str, float]] = ()  # by layers, in every step and then in every evaluation


class Together:
    """The outcomes of many runs, made a few at a time when the first of them is asked for.

    Not all at once: the first test would wait for the whole of a long list.
    """

    def __init__(self, runs: Mapping[Any, Run], folder: Path) -> None:
        self.runs, self._folder = runs, folder
        self._found: dict[Any, Outcome | str] = {}

    def __getitem__(self, key: Any) -> Outcome | str:
        if key not in self._found:
            left = [other for other in self.runs if other not in self._found]
            first = left.index(key)
            chosen = left[first : first + RUNS_TOGETHER]
            folder = self._folder / str(len(self._found))
            made = outcomes([self.runs[other] for other in chosen], folder)
            self._found |= dict(zip(chosen, made, strict=True))
        return self._found[key]


def compared(request: pytest.FixtureRequest) -> list[Mapping[str, Any]]:
    """The parameters of those tests of a module that are about to run and ask for the fixture of this request."""
    items = [item for item in request.session.items if item.path == request.path]
    return [item.callspec.params for item in items if request.fixturename in getattr(item, "fixturenames", ())]


def outcomes(runs: Sequence[Run], folder: Path) -> list[Outcome | str]:
    """Of each run, or the traceback of what went wrong in it; runs of equal size share their processes."""
    found: dict[int, Outcome | str] = {}
    for world_size in sorted({run.layout.world_size for run in runs}):
        left = [number for number, run in enumerate(runs) if run.layout.world_size == world_size]
        while left:
            chosen = {number: runs[number] for number in left}
            try:
                run_ranks(make_each, world_size, chosen, str(folder), timeout_seconds=MOST_SECONDS)
            except RankFailedError as error:
                failed = next(number for number in chosen if not _results(folder, number, world_size))
                found[failed] = str(error)
            for number in chosen:
                if parts := _results(folder, number, world_size):
                    found[number] = _outcome(folder / str(number), parts)
            left = [number for number in left if number not in found]
    return [found[number] for number in range(len(runs))]


def make_each(runs: Mapping[int, Run], folder: str) -> None:
    """On every rank: all runs, each leaving a file of this rank's when the rank is through."""
    from hierlm.parallel.process import start_processes

    process = start_processes()
    for number, run in runs.items():
        end_groups()
        place = Path(folder) / str(number)
        torch.save(_train(run, process, place), place / f"rank-{process.rank}.pt")


def _train(run: Run, process: Any, folder: Path) -> dict[str, Any]:
    from hierlm.parallel.engine import Engine

    config = load_config(f"configs/tiny/{run.arch}.yaml", run.words)
    engine, timeline = Engine(config, process=process), Timeline(config.phases)
    recurrent, steps, nats, reported, evaluated = is_recurrent(config.model), [], [], [], []
    for step in range(timeline.num_steps):
        moment = timeline.at(step)
        size, length = moment.phase.global_batch_size, moment.phase.sequence_length
        mine = list(engine.local_rows(size))
        tokens, targets = _text(size, length, vocab_size=config.model.vocab_size, seed=step)
        anew = torch.tensor([step == 0 or row in run.restarts.get(step, ()) for row in mine])
        starts = {"starts": anew} if recurrent else {}
        weights = None if run.counted is None else _weights(size, length, share=run.counted, seed=step)[mine]
        result = engine.train_step(tokens[mine], targets[mine], moment=moment, weights=weights, **starts)
        measured = engine.send(result).read()
        steps.append((measured.loss, float(result.grad_norm)))
        reported.append(measured.reported)
        if step + 1 in (*timeline.boundaries, timeline.num_steps):
            shown = _text(4, 13, vocab_size=config.model.vocab_size, seed=1000 + step)
            engine.forget_reports()
            nats.append(float(engine.evaluate(*shown).double().mean()))
            # all data-parallel ranks are shown the same rows
            evaluated.append(engine.evaluation_reports(nats[-1]))
    engine.save(folder, client_state={}, open_file=FileWriter(folder).open)
    return {"steps": steps, "nats": nats, "reported": [*reported, *evaluated]}


def _text(count: int, length: int, *, vocab_size: int, seed: int) -> tuple[Tensor, Tensor]:
    whole = torch.randint(vocab_size, (count, length + 1), generator=torch.Generator().manual_seed(seed))
    return whole[:, :-1], whole[:, 1:]


def _weights(count: int, length: int, *, share: float, seed: int) -> Tensor:
    """fp32 [count, length]: most are 0, the others between 0 and 1; the first row has nearly all that count."""
    generator = torch.Generator().manual_seed(2000 + seed)
    chance = torch.full((count, 1), share / 2)
    chance[0] = min(1.0, share * count / 2)
    counts = torch.rand(count, length, generator=generator) < chance
    return torch.where(counts, torch.rand(count, length, generator=generator), 0.0)


def _results(folder: Path, number: int, world_size: int) -> list[dict[str, Any]]:
    """Of all ranks; empty if one is missing."""
    files = [folder / str(number) / f"rank-{rank}.pt" for rank in range(world_size)]
    return [torch.load(file) for file in files] if all(file.exists() for file in files) else []


def _outcome(folder: Path, parts: Sequence[dict[str, Any]]) -> Outcome | str:
    if any(part != parts[0] for part in parts[1:]):
        return f"ranks tell different losses or norms: {parts}"
    try:
        state = read_canonical(folder / TAG)
        moments = {name: state.tensor(name, "exp_avg") for name in state.names}
    except ValueError as error:
        return f"the checkpoint is not whole: {error}"
    return Outcome(parts[0]["steps"], parts[0]["nats"], moments, parts[0]["reported"])


def differences(found: Outcome | str, expected: Outcome | str, *, moments_within: float = RELATIVE) -> list[str]:
    """What is not equal, in words."""
    if isinstance(found, str) or isinstance(expected, str):
        return [each for each in (found, expected) if isinstance(each, str)]
    wrong = []
    numbers = {"step": (found.steps, expected.steps), "evaluation": (found.nats, expected.nats)}
    for what, (ours, theirs) in numbers.items():
        for place, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if not torch.allclose(torch.tensor(a), torch.tensor(b), rtol=RELATIVE, atol=0):
                wrong.append(f"{what} {place}: {a}, alone {b}")
    wrong += _different_reports(found.reported, expected.reported)
    return wrong + _different_moments(found.moments, expected.moments, within=moments_within)


def _different_reports(found: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]]) -> list[str]:
    wrong = []
    for place, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        both = ours.keys() & theirs.keys()
        apart = [name for name in both if not isclose(ours[name], theirs[name], rel_tol=RELATIVE)]
        if apart or ours.keys() != theirs.keys():
            wrong.append(f"reports {place}: {dict(ours)}, alone {dict(theirs)}")
    return wrong


def _different_moments(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, within: float) -> list[str]:
    if found.keys() != expected.keys():
        return [f"parameters of one only: {sorted(found.keys() ^ expected.keys())}"]
    largest = max(float(moment.abs().max()) for moment in expected.values())
    wrong = []
    for name, moment in expected.items():
        scale = max(float(moment.abs().max()), FLOOR * largest)
        apart = float((found[name] - moment).abs().max())
        if not apart <= within * scale:  # not a number is wrong too
            wrong.append(f"first moment of {name}: {apart:.2e} apart, {apart / scale:.1e} of its size {scale:.2e}")
    return wrong
