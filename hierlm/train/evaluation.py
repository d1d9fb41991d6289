"""Loss over a whole split, the same on every layout, without touching training state."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data_pipeline.image_shape import Kind
from data_pipeline.read.assignment import EvaluationLanes
from data_pipeline.read.loader import EvaluationRows, Split
from hierlm.bits import bits, perplexity
from hierlm.nn.inputs import NO_INPUTS, Inputs
from hierlm.train.loaded_inputs import inputs_of


@dataclass(frozen=True)
class EvaluationSums:
    """What an evaluation adds up."""

    nats: float
    num_tokens: int
    tokens_per_byte: float  # of the split, counted at preparation
    kind: Kind = "text"  # what the split is made of
    reported: Mapping[str, float] = field(default_factory=dict)  # by layers, by name

    def metrics(self) -> dict[str, float | int]:
        """loss in nats per token, perplexity per token, bits per source byte (and dimension), tokens scored, and what
        layers report."""
        loss = self.nats / self.num_tokens
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            **bits(loss, tokens_per_byte=self.tokens_per_byte, kind=self.kind),
            "tokens": self.num_tokens,
            **self.reported,
        }


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
        share: Share = ALONE,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`rows_per_pass` over all ranks. A recurrent model reads the split as so many lanes, with memory carried.

        With `document_starts` the score is told which document each token belongs to.
        """
        assert rows_per_pass % share.dp_degree == 0
        self._split, self._score, self._rows_per_pass, self._share = split, score, rows_per_pass, share
        self._is_recurrent, self._progress, self._document_starts = is_recurrent, progress, document_starts

    def run(self, *, sequence_length: int, max_rows: int | None) -> EvaluationSums | None:
        """Score the first `max_rows` rows (all by default); None when all ranks agreed to stop on the way."""
        share, how = self._share, {"document_starts": self._document_starts}
        rows = EvaluationRows(self._split, sequence_length=sequence_length, **how)
        num_rows = min(len(rows), max_rows or len(rows))
        lanes = EvaluationLanes(num_rows, self._rows_per_pass)
        sums = torch.zeros(2, dtype=torch.float64)
        share.forget_reports()
        for index in range(lanes.num_steps):
            if share.stopped():
                return None
            batch = rows.read(self._rows_of(index, lanes))
            more = {"inputs": inputs_of(batch.document_starts)} if self._document_starts else {}
            nats = self._score(batch.tokens, batch.targets, continues=self._is_recurrent and index > 0, **more)
            sums += torch.stack([nats.double().sum().cpu(), batch.valid.sum().double()])
            self._progress(index + 1, lanes.num_steps)
        nats_sum, tokens = share.add_up(sums).tolist()
        reported = share.reports(nats_sum / tokens)
        return EvaluationSums(nats_sum, int(tokens), self._split.tokens_per_byte, self._split.kind, reported)

    def _rows_of(self, index: int, lanes: EvaluationLanes) -> list[int]:
        """This rank's rows of a pass: neighbours, or with memory one row of each lane; -1 is padding."""
        mine = self._rows_per_pass // self._share.dp_degree
        places = np.arange(self._share.dp_rank * mine, (self._share.dp_rank + 1) * mine)
        if self._is_recurrent:
            return lanes.rows(index, places).tolist()
        rows = index * self._rows_per_pass + places
        return np.where(rows < lanes.num_rows, rows, -1).tolist()
