"""Recurrent memory on disk: one file per rank that holds some, named by global rows inside, so any layout reads it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hierlm.checkpoint.tensor_file import read_mapping
from hierlm.errors import UserError

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
    return [_state_of(read_mapping(file, is_mapped=False), file) for file in files]


def _state_of(content: dict[str, Any], file: Path) -> tuple[int, dict[int, tuple[torch.Tensor, ...]]]:
    first_row, memories = content.get("first_row"), content.get("memories")
    if not isinstance(first_row, int) or not isinstance(memories, dict) or not all(map(_is_memory, memories.items())):
        raise UserError(f"{file}: holds no recurrent memory; go on from another checkpoint")
    return first_row, memories


def _is_memory(item: tuple[Any, Any]) -> bool:
    index, tensors = item
    if not isinstance(index, int) or not isinstance(tensors, tuple):
        return False
    return all(isinstance(tensor, torch.Tensor) and tensor.ndim for tensor in tensors)
