"""What the objective says of a whole split, the same on every layout, without touching training state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from data_pipeline.read.assignment import EvaluationLanes
from data_pipeline.read.loader import EvaluationRows, Split
from hierlm import objectives
from hierlm.nn.inputs import NO_INPUTS, Inputs, without_tokens
from hierlm.objectives.batch import Batch
from hierlm.objectives.config import DEFAULT_OBJECTIVE, ObjectiveConfig


@dataclass(frozen=True)
class Evaluated:
    """One split, the same on every rank."""

    sums: Tensor  # what the objective adds up, fp64
    metrics: Mapping[str, float | int]  # what it makes of them
    reported: Mapping[str, float]  # by layers, by name


@dataclass(frozen=True)
class Share:
    """What of an evaluation this process does, and how it learns of the rest. By default it does all of it."""

    dp_rank: int = 0
    dp_degree: int = 1
    add_up: Callable[[Tensor], Tensor] = lambda sums: sums  # over data-parallel ranks
    stopped: Callable[[], bool] = lambda: False  # the same answer on all ranks
    forget_reports: Callable[[], None] = lambda: None  # of layers, before the first pass
    reports: Callable[[float], Mapping[str, float]] = lambda loss: {}  # of all ranks since then, beside the mean loss


ALONE = Share()


class Score(Protocol):
    """`score(tokens, targets, continues=...)`: int64 [n, T] -> nats fp32 [n, T], 0 where the target is negative.

    With `continues`, each row goes on where the same row of the call before ended: recurrent memory is carried.
    `inputs` are given where documents were asked for.
    """

    def __call__(self, tokens: Tensor, targets: Tensor, *, continues: bool, inputs: Inputs = NO_INPUTS) -> Tensor: ...


class Evaluation:
    """Rows of one split dealt to data-parallel ranks; every rank gets the same sums."""

    def __init__(
        self,
        split: Split,
        *,
        score: Score,
        rows_per_pass: int,
        is_recurrent: bool = False,
        document_starts: bool = False,
        objective: ObjectiveConfig | None = None,
        seed: int = 0,
        share: Share = ALONE,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`rows_per_pass` over all ranks. A recurrent model reads the split as so many lanes, with memory carried.

        With `document_starts` the score is told which document each token belongs to. Without an `objective` it is the
        default one; what it draws is keyed by `seed`.
        """
        assert rows_per_pass % share.dp_degree == 0
        self._split, self._score, self._rows_per_pass, self._share = split, score, rows_per_pass, share
        self._is_recurrent, self._progress, self._document_starts = is_recurrent, progress, document_starts
        self._asked = objectives.objective(DEFAULT_OBJECTIVE if objective is None else objective.name)
        self._objective, self._seed = self._asked.Config() if objective is None else objective, seed

    def run(self, *, sequence_length: int, max_rows: int | None) -> Evaluated | None:
        """Score the first `max_rows` rows (all by default); None when all ranks agreed to stop on the way."""
        share, totals = self._share, self._asked.Totals()
        rows = EvaluationRows(self._split, sequence_length=sequence_length, document_starts=self._document_starts)
        num_rows = min(len(rows), max_rows or len(rows))
        lanes = EvaluationLanes(num_rows, self._rows_per_pass)
        share.forget_reports()
        for index in range(lanes.num_steps):
            if share.stopped():
                return None
            read = rows.rows(self._rows_of(index, lanes))
            batch: Batch = self._asked.batch(read, self._objective, seed=self._seed)
            totals.add(self._scored(batch, continues=self._is_recurrent and index > 0), batch)
            self._progress(index + 1, lanes.num_steps)
        sums = share.add_up(totals.sums)
        metrics = self._asked.Totals.metrics(sums, self._split)
        return Evaluated(sums, metrics, share.reports(metrics[self._asked.HEADLINE]))

    def _scored(self, batch: Batch, *, continues: bool) -> Tensor:
        others = without_tokens(batch.inputs)
        more = {"inputs": others} if others else {}
        return self._score(batch.tokens, batch.targets, continues=continues, **more)

    def _rows_of(self, index: int, lanes: EvaluationLanes) -> list[int]:
        """This rank's rows of a pass: neighbours, or with memory one row of each lane; -1 is padding."""
        mine = self._rows_per_pass // self._share.dp_degree
        places = np.arange(self._share.dp_rank * mine, (self._share.dp_rank + 1) * mine)
        if self._is_recurrent:
            return lanes.rows(index, places).tolist()
        rows = index * self._rows_per_pass + places
        return np.where(rows < lanes.num_rows, rows, -1).tolist()
