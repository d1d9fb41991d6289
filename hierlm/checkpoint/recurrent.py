"""Recurrent memory on disk: one file per rank that holds some, named by global rows inside, so any layout reads it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from hierlm.checkpoint.tensor_file import read_mapping
from hierlm.errors import UserError

MEMORY = "memory"
"""The folder inside a checkpoint; absent when the model has no recurrent memory."""


OpenFile = Callable[[Path], AbstractContextManager[Any]]


def write_recurrent_state(checkpoint: Path, state: tuple[Any, ...], *, rank: int, open_file: OpenFile) -> None:
    """`state`: (first global row, {layer index: tensors [rows, ...]})."""
    first_row, memories = state
    on_cpu = {index: tuple(tensor.cpu() for tensor in memory) for index, memory in memories.items()}
    with open_file(_file(checkpoint, rank)) as file:
        torch.save({"first_row": first_row, "memories": on_cpu}, file)


def read_recurrent_states(
    checkpoint: Path, *, ranks: Iterable[int] | None = None
) -> Sequence[tuple[int, dict[int, tuple[torch.Tensor, ...]]]]:
    """What these ranks of the layout that saved have written, None: all; empty without recurrent memory.

    Not every rank has written something, and no folder is listed for those asked for.
    """
    if ranks is None:
        files: Iterable[Path] = sorted((checkpoint / MEMORY).glob("rank-*.pt"))
    else:
        files = (_file(checkpoint, rank) for rank in ranks)
    return [_state_of(content, file) for file, content in _read(files)]


def _read(files: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Mapped, so that of rows nobody asks for nothing is read."""
    for file in files:
        try:
            yield file, read_mapping(file)
        except FileNotFoundError:
            continue


def _file(checkpoint: Path, rank: int) -> Path:
    return checkpoint / MEMORY / f"rank-{rank:04d}.pt"


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
