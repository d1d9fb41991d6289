"""`hierlm eval`: loss, perplexity and bits per byte of a checkpoint on a split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_pipeline.loader import open_split
from hierlm.inference.load_run import LoadedRun, load_run
from hierlm.train.evaluation import Evaluation, Share

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
            score=lambda tokens, targets: token_nats(loaded, tokens, targets),
            rows_per_pass=ROWS_PER_PASS,
            share=Share(),
            progress=progress,
        )
        sums = evaluation.run(sequence_length=loaded.phase.sequence_length, max_rows=None)
        assert sums is not None, "nobody stops an evaluation without other ranks"
        records.append({"step": loaded.step, "split": split, "data": source.path, **sums.metrics()})
    return records


@torch.no_grad()
def token_nats(loaded: LoadedRun, tokens: Tensor, targets: Tensor) -> Tensor:
    """Nats of every token, fp32 [n, T], 0 where the target is negative."""
    logits, _ = loaded.model(tokens.to(loaded.device))
    flat = F.cross_entropy(
        logits.float().flatten(0, 1), targets.to(loaded.device).flatten(), reduction="none", ignore_index=-100
    )
    return flat.view_as(targets)
