"""`hierlm eval`: loss, perplexity and bits per byte of a checkpoint on a split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipeline.loader import open_split
from hierlm.inference.load_run import LoadedRun, load_run
from hierlm.models.assembly import State, is_recurrent
from hierlm.train.evaluation import Evaluation

ROWS_PER_PASS = 8


def evaluate_run(
    path: Path, *, split: str, checkpoint: int | None, progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """One record per data source: step, split, data, loss, perplexity, bits_per_byte, tokens."""
    loaded = load_run(path, checkpoint=checkpoint)
    records = []
    for source in loaded.config.data.weighted_sources:
        evaluation = Evaluation(
            open_split(source.path, split),
            score=Scorer(loaded),
            rows_per_pass=ROWS_PER_PASS,
            is_recurrent=is_recurrent(loaded.config.model),
            progress=progress,
        )
        sums = evaluation.run(sequence_length=loaded.phase.sequence_length, max_rows=None)
        assert sums is not None, "nobody stops an evaluation without other ranks"
        records.append({"step": loaded.step, "split": split, "data": source.path, **sums.metrics()})
    return records


class Scorer:
    """The nats of every token; keeps the memory between calls that continue one another."""

    def __init__(self, loaded: LoadedRun) -> None:
        self._model, self._device = loaded.model, loaded.device
        self._state: State | None = None

    @torch.no_grad()
    def __call__(self, tokens: Tensor, targets: Tensor, *, continues: bool) -> Tensor:
        logits, self._state = self._model(tokens.to(self._device), self._state if continues else None)
        wanted = targets.to(self._device)
        flat = F.cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=-100)
        return flat.view_as(targets)
