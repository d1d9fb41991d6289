"""Loss over a whole split, the same on every layout, without touching training state."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.loader import EvaluationRows, Split


@dataclass(frozen=True)
class EvaluationSums:
    """What an evaluation adds up."""

    nats: float
    num_tokens: int
    tokens_per_byte: float  # of the split, counted at preparation

    def metrics(self) -> dict[str, float | int]:
        """loss in nats per token, perplexity per token, bits per source byte, tokens scored."""
        loss = self.nats / self.num_tokens
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": bits_per_byte(loss, tokens_per_byte=self.tokens_per_byte),
            "tokens": self.num_tokens,
        }


def bits_per_byte(loss: float, *, tokens_per_byte: float) -> float:
    """Nats per token to bits per source byte."""
    return loss * tokens_per_byte / math.log(2)


@dataclass(frozen=True)
class Share:
    """What of an evaluation this process does, and how it learns of the rest. By default it does all of it."""

    dp_rank: int = 0
    dp_degree: int = 1
    add_up: Callable[[Tensor], Tensor] = lambda sums: sums  # over data-parallel ranks
    stopped: Callable[[], bool] = lambda: False  # the same answer on all ranks


class Evaluation:
    """Rows of one split dealt to data-parallel ranks; every rank gets the same sums."""

    def __init__(
        self,
        split: Split,
        *,
        score: Callable[[Tensor, Tensor], Tensor],
        rows_per_pass: int,
        share: Share,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`score(tokens, targets)` int64 [n, T] -> nats fp32 [n, T], 0 where the target is negative."""
        self._split, self._score, self._rows_per_pass, self._share = split, score, rows_per_pass, share
        self._progress = progress

    def run(self, *, sequence_length: int, max_rows: int | None) -> EvaluationSums | None:
        """Score the first `max_rows` rows (all by default); None when all ranks agreed to stop on the way."""
        rows = EvaluationRows(self._split, sequence_length=sequence_length)
        num_rows, share = min(len(rows), max_rows or len(rows)), self._share
        sums = torch.zeros(2, dtype=torch.float64)
        for first in range(0, num_rows, self._rows_per_pass * share.dp_degree):
            if share.stopped():
                return None
            start = first + share.dp_rank * self._rows_per_pass
            wanted = [row if row < num_rows else -1 for row in range(start, start + self._rows_per_pass)]
            batch = rows.read(wanted)
            nats = self._score(batch.tokens, batch.targets)
            sums += torch.stack([nats.double().sum().cpu(), batch.valid.sum().double()])
            self._progress(min(first + self._rows_per_pass * share.dp_degree, num_rows), num_rows)
        nats_sum, tokens = share.add_up(sums).tolist()
        return EvaluationSums(nats_sum, int(tokens), self._split.num_tokens / self._split.source_bytes)
