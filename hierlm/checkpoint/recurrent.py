"""Recurrent memory on disk: one file per rank that holds some, named by global rows inside, so any layout reads it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

MEMORY = "memory"
"""The folder inside a checkpoint; absent when the model has no recurrent memory."""


def write_recurrent_state(checkpoint: Path, state: tuple[Any, ...], *, rank: int) -> None:
    """`state`: (first global row, {layer index: tensors [rows, ...]})."""
    folder = checkpoint / MEMORY
    folder.mkdir(exist_ok=True)
    first_row, memories = state
    on_cpu = {index: tuple(tensor.cpu() for tensor in memory) for index, memory in memories.items()}
    torch.save({"first_row": first_row, "memories": on_cpu}, folder / f"rank-{rank:04d}.pt")


def read_recurrent_states(checkpoint: Path) -> Sequence[tuple[int, dict[int, tuple[torch.Tensor, ...]]]]:
    """What every rank of the layout that saved has written; empty without recurrent memory."""
    files = sorted((checkpoint / MEMORY).glob("rank-*.pt"))
    loaded = [torch.load(file, weights_only=True) for file in files]
    return [(item["first_row"], item["memories"]) for item in loaded]
