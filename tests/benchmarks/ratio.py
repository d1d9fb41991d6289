"""Two ways of doing the same in turn, in one process, and what was promised of their ratio."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm import models
from hierlm.models.assembly import LanguageModel

ROUNDS, WARM_UP = 9, 3
VOCAB, ROWS = 256, 2
Step = Callable[[], object]
"""One call is one step."""


class Claim(NamedTuple):
    """Something measured and what was promised of it, if anything."""

    what: str
    found: float
    bound: float | None
    unit: str = "x"

    @property
    def holds(self) -> bool:
        return self.bound is None or self.found >= self.bound

    def line(self) -> str:
        promised = "" if self.bound is None else f" claimed >= {self.bound:.2f}  {'holds' if self.holds else 'MISSED'}"
        return f"{self.what:<78}{self.found:>8.2f}{self.unit:<2}{promised}"


def seconds(step: Step) -> float:
    """Processor seconds of one call."""
    began = time.process_time()
    step()
    return time.process_time() - began


def times_faster(ours: Step, theirs: Step, *, rounds: int = ROUNDS) -> float:
    """Median over rounds of their time over ours; who comes first changes from round to round."""
    for _ in range(WARM_UP):  # until malloc has all it needs: memory touched for the first time is slow
        ours(), theirs()
    ratios = []
    for index in range(rounds):
        if index % 2:
            other, own = seconds(theirs), seconds(ours)
        else:
            own, other = seconds(ours), seconds(theirs)
        ratios.append(other / own)
    return median(ratios)


def rows(length: int, *, num_rows: int) -> tuple[Tensor, Tensor]:
    whole = torch.randint(VOCAB, (num_rows, length + 1), generator=torch.Generator().manual_seed(0))
    return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()


def both_passes(model: nn.Module, *, length: int, num_rows: int = ROWS) -> Step:
    """Forward, loss and backward of a language model on fixed rows."""
    tokens, targets = rows(length, num_rows=num_rows)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        found = model(tokens)
        logits = found[0] if isinstance(found, tuple) else found
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()

    return step


def built(part: dict[str, Any]) -> LanguageModel:
    return models.from_config({"model": part}, seed=0)
