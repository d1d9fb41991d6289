"""The full tensor of a parameter as a row of blocks, end to end, put together from what slices and ranks hold of it.

So a tensor can be written or hashed that no process could hold. Blocks are views of the files where they can be.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from hierlm.checkpoint.engine_files import Piece

MEMORY_BYTES = 256 << 20
"""What a process that converts, hashes or exports keeps of tensors at a time, unless it is told otherwise."""

_ITEM_BYTES = 4


def full_shape(pieces: Sequence[Piece], *, rule: str, vocab_size: int | None) -> tuple[int, ...]:
    """Of the parameter that the pieces of its tensor slices are cut from."""
    first = pieces[0].shape
    if rule == "replicate":
        return first
    if rule == "row":
        return (*first[:-1], sum(piece.shape[-1] for piece in pieces))
    rows = sum(piece.shape[0] for piece in pieces)
    return (min(rows, vocab_size or rows) if rule == "vocabulary" else rows, *first[1:])


def blocks_of(
    stages: Sequence[Sequence[Piece]],
    state: str,
    *,
    name: str,
    rule: str,
    vocab_size: int | None,
    most_bytes: int = MEMORY_BYTES,
    give_back: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """fp32 blocks [n] of the parameter; `stages`: of each pipeline stage that has it, the pieces of its slices.

    A block lives until the next one is asked for. `give_back` is called in between: what was read of files is no
    longer needed. ValueError where copies differ, which the run itself has broken.
    """
    copies = [copy for pieces in stages for copy in _copies(pieces, rule)]
    num_pieces = sum(map(len, stages))
    values = max(1, most_bytes // _ITEM_BYTES // (num_pieces + 2))  # of each piece one, what is joined, what is written
    left = math.prod(full_shape(stages[0], rule=rule, vocab_size=vocab_size))
    for first, *others in zip(*(_joined(copy, state, rule, values) for copy in copies), strict=True):
        if any(not torch.equal(first, other) for other in others):
            if len(stages) > 1:
                raise ValueError(f"copies of the tied parameter {name} differ between pipeline stages")
            raise ValueError("copies of a replicated parameter differ between tensor-parallel ranks")
        if left:
            yield first[:left]
        left -= min(left, len(first))
        give_back()


def _copies(pieces: Sequence[Piece], rule: str) -> list[Sequence[Piece]]:
    """What should hold the same: of a replicated parameter every slice has one."""
    return [[piece] for piece in pieces] if rule == "replicate" else [pieces]


def _joined(pieces: Sequence[Piece], state: str, rule: str, values: int) -> Iterator[Tensor]:
    """The pieces behind each other, or of a parameter cut by its last dimension beside each other."""
    if rule != "row" or len(pieces) == 1:
        return chain.from_iterable(_stretches(piece, state, values) for piece in pieces)
    return _side_by_side(pieces, state, values)


def _stretches(piece: Piece, state: str, values: int) -> Iterator[Tensor]:
    count = math.prod(piece.shape)
    for start in range(0, count, values):
        yield piece.stretch(state, start, min(start + values, count))


def _side_by_side(pieces: Sequence[Piece], state: str, values: int) -> Iterator[Tensor]:
    widths = [piece.shape[-1] for piece in pieces]
    num_rows, step = math.prod(pieces[0].shape[:-1]), max(1, values // sum(widths))
    for start in range(0, num_rows, step):
        stop = min(start + step, num_rows)
        parts = [
            piece.stretch(state, start * width, stop * width).view(stop - start, width)
            for piece, width in zip(pieces, widths, strict=True)
        ]
        yield torch.cat(parts, dim=1).view(-1)
