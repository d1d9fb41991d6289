"""Weights of a source, read in blocks: of a tensor only what a rank asks for comes off the disk.

A tensor is seen as a matrix, its last dimension the columns; whatever a layout holds of it is a block of that matrix or
a stretch of a block's rows.
"""

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from hierlm.checkpoint.canonical import CanonicalState, read_canonical
from hierlm.checkpoint.engine_files import WEIGHTS, Piece
from hierlm.checkpoint.find import CheckpointRef
from hierlm.checkpoint.layout import ENGINE
from hierlm.checkpoint.safetensors_header import Stored, shown
from hierlm.checkpoint.weight_source import Source
from hierlm.errors import UserError

TORCH_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What weights can be read of, by the format's names; other tensors (positions, masks) may stand beside them."""


class Weights(Protocol):
    """Tensors by the names they have in their source."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Of all there are."""

    def block(self, name: str, *, rows: range, columns: range) -> Tensor:
        """Some neighbouring rows and columns of a tensor as a matrix, [rows, columns], in a type of floats."""


def as_matrix(shape: Sequence[int]) -> tuple[int, int]:
    """(rows, columns) of a tensor; of one without a second dimension each value is a row."""
    return (math.prod(shape), 1) if len(shape) < 2 else (math.prod(shape[:-1]), shape[-1])


class SafetensorsWeights:
    """Of one file or of many, mapped tensor by tensor: what has been read need not stay in memory."""

    def __init__(self, tensors: Mapping[str, Stored]) -> None:
        self._tensors = tensors

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: stored.shape for name, stored in self._tensors.items()}

    def block(self, name: str, *, rows: range, columns: range) -> Tensor:
        stored = self._tensors[name]
        _, width = as_matrix(stored.shape)
        item = TORCH_TYPES[stored.kind].itemsize
        first, size = stored.start + rows.start * width * item, len(rows) * width * item
        if not size:
            return torch.empty(len(rows), len(columns))
        values = _mapped(stored, first, size, aligned_to=item)
        return values.view(len(rows), width)[:, columns.start : columns.stop]


def _mapped(stored: Stored, first: int, size: int, *, aligned_to: int) -> Tensor:
    """The values of a stretch of a file; UserError where the file has become shorter since its header was read."""
    kind = TORCH_TYPES[stored.kind]
    with stored.file.open("rb") as file:
        if first % aligned_to:  # no reader of the format has to write it so
            held = bytearray(size)
            file.seek(first)
            if file.readinto(held) == size:
                return torch.frombuffer(held, dtype=kind)
        else:
            page = first // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            try:
                # private and writable, for torch warns of what it could not write to; nothing is written
                whole = mmap.mmap(file.fileno(), first - page + size, access=mmap.ACCESS_COPY, offset=page)
                return torch.frombuffer(whole, dtype=kind, count=size // kind.itemsize, offset=first - page)
            except ValueError:  # longer than the file
                pass
    raise UserError(f"{stored.file}: has become shorter while it was read; copy it again")


class CheckpointWeights:
    """Of a run's checkpoint of any layout: full-precision weights by canonical name."""

    def __init__(self, state: CanonicalState) -> None:
        self._state = state

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: self._state.shape(name) for name in self._state.names}

    def block(self, name: str, *, rows: range, columns: range) -> Tensor:
        pieces = self._state.pieces(name)
        if self._state.rule(name) == "row" and len(pieces[0].shape) > 1:
            parts = [_rows(piece, rows)[:, own.start : own.stop] for piece, own in _overlaps(pieces, 1, columns)]
            return torch.cat(parts, dim=1)
        return torch.cat([_rows(piece, own) for piece, own in _overlaps(pieces, 0, rows)])[
            :, columns.start : columns.stop
        ]


def _overlaps(pieces: Sequence[Piece], dim: int, wanted: range) -> Iterator[tuple[Piece, range]]:
    """The slices that hold some of the wanted rows or columns, and which of their own those are."""
    first = 0
    for piece in pieces:
        size = as_matrix(piece.shape)[dim]
        start, stop = max(wanted.start - first, 0), min(wanted.stop - first, size)
        if start < stop:
            yield piece, range(start, stop)
        first += size


def _rows(piece: Piece, rows: range) -> Tensor:
    """Some rows of a slice, out of the fragments of data-parallel ranks that hold them."""
    _, width = as_matrix(piece.shape)
    parts, first = [], 0
    for fragment in piece.fragments[WEIGHTS]:
        start, stop = max(rows.start * width - first, 0), min(rows.stop * width - first, fragment.numel())
        if start < stop:
            parts.append(fragment[start:stop])
        first += fragment.numel()
    values = parts[0] if len(parts) == 1 else torch.cat(parts)
    return values.view(len(rows), width)


def open_weights(source: Source, *, checkpoint: CheckpointRef | None) -> Weights:
    """`checkpoint` is that of a source that is a run, verified. UserError where it is not what it should be."""
    if checkpoint is None:
        assert source.tensors is not None
        return SafetensorsWeights(source.tensors)
    try:
        return CheckpointWeights(read_canonical(checkpoint.path / ENGINE))
    except (ValueError, OSError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{checkpoint.path}: {error}") from None


def refuse_what_is_no_weight(source: Source, names: Iterable[str]) -> None:
    """UserError where one of these tensors is of a type that no weight has."""
    tensors = source.tensors or {}
    odd = [name for name in names if name in tensors and tensors[name].kind not in TORCH_TYPES]
    if odd:
        kinds = ", ".join(TORCH_TYPES)
        raise UserError(f"init_from: {source}: {shown(odd[0])} is of type {tensors[odd[0]].kind}, allowed: {kinds}")
