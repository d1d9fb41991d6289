"""Who keeps recurrent memory between forward passes: one entry per layer and micro-batch lane, outside the models.

A lane is one row of the batch over time. Training and evaluation each own an instance, so that an evaluation cannot
touch training memory; layers store nothing, so that recompute cannot update a memory twice.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hierlm.nn.layer import Layer, Memory

Memories = tuple[Memory | None, ...]


class LaneState(NamedTuple):
    """The memories of some rows: what one rank writes into a checkpoint and reads from it."""

    first_row: int  # global row of the first lane
    memories: dict[int, Memory]  # layer index -> tensors [rows, ...]


class MemoryLanes:
    """The memories of this rank's rows for this rank's layers, micro-batch by micro-batch."""

    def __init__(self, layers: Mapping[int, Layer], *, device: torch.device, dtype: torch.dtype) -> None:
        self._layers = layers
        self._device, self._dtype = device, dtype
        self._lanes: dict[int, Memories] = {}

    def get(self, micro_index: int, *, num_rows: int) -> Memories:
        """The memories with which micro-batch `micro_index` starts; fresh ones when its lanes have seen nothing."""
        if micro_index not in self._lanes:
            return self._fresh(num_rows)
        memories = self._lanes[micro_index]
        rows = {memory[0].shape[0] for memory in memories if memory}
        assert rows <= {num_rows}, f"micro-batch {micro_index} has {num_rows} rows, its lanes {rows}"
        return memories

    def put(self, micro_index: int, memories: Memories) -> None:
        """Keep what a forward pass returned, without its graph."""
        self._lanes[micro_index] = tuple(
            None if memory is None else tuple(tensor.detach() for tensor in memory) for memory in memories
        )

    def clear(self) -> None:
        """Every lane starts a new stream."""
        self._lanes.clear()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to keep: no pass yet, or no layer with memory."""
        return not any(memory for memories in self._lanes.values() for memory in memories)

    @property
    def _num_rows(self) -> int:
        """Of all lanes; 0 where nothing is kept."""
        kept = (next((memory for memory in memories if memory), None) for memories in self._lanes.values())
        return sum(memory[0].shape[0] for memory in kept if memory)

    def forget(self, rows: Tensor) -> None:
        """Make the lanes of this rank's `rows`, bool [rows], start a new stream.

        Also where all of them do, memories keep their shapes: on another layout they share a rank with rows that go on.
        """
        if bool(rows.all()) and len(rows) != self._num_rows:
            self.clear()  # the rows have been dealt anew, in other micro-batches
        if bool(rows.any()):
            self.begin_anew(rows)

    def begin_anew(self, rows: Tensor) -> None:
        """Make the lanes of this rank's `rows`, bool [rows] on any device, start a new stream; waits for nothing."""
        if self.is_empty:  # a pipeline stage may hold no layer with memory
            return
        first = 0
        for micro_index, memories in sorted(self._lanes.items()):
            num_rows = next(memory[0].shape[0] for memory in memories if memory)
            mine = rows[first : first + num_rows].to(self._device)
            fresh = self._fresh(num_rows)
            self._lanes[micro_index] = tuple(_mixed(mine, new, old) for new, old in zip(fresh, memories, strict=True))
            first += num_rows

    def rows_not_finite(self, num_rows: int) -> Tensor:
        """uint8 [num_rows]: 1 for each of this rank's rows that remembers something not finite."""
        lost = torch.zeros(num_rows, dtype=torch.uint8, device=self._device)
        first = 0
        for _, memories in sorted(self._lanes.items()):
            tensors = [tensor for memory in memories if memory for tensor in memory]
            for tensor in tensors:
                mine = lost[first : first + tensor.shape[0]]
                mine |= ~tensor.isfinite().reshape(len(mine), -1).all(1)
            first += tensors[0].shape[0] if tensors else 0
        return lost

    def state_by_global_row(self, *, first_row: int) -> LaneState:
        """All lanes of this rank, whose first row is `first_row` of the global batch."""
        in_order = [self._lanes[micro_index] for micro_index in sorted(self._lanes)]
        joined = {}
        for place, index in enumerate(self._layers):
            pieces = [memories[place] for memories in in_order]
            if pieces and pieces[0] is not None:
                joined[index] = _joined([piece for piece in pieces if piece is not None])
        return LaneState(first_row, joined)

    def restore(self, states: Sequence[LaneState], *, first_row: int, num_rows: int, micro_batch_size: int) -> None:
        """Take rows first_row .. first_row + num_rows out of what any ranks of any layout saved.

        ValueError when a layer or a row is missing: memory is never half restored.
        """
        self.clear()
        per_layer = {index: _rows_of(states, index, first_row, num_rows) for index in _saved_layers(states)}
        for index, layer in self._layers.items():
            if index in per_layer:
                per_layer[index] = layer.from_checkpoint(per_layer[index])
        missing = {i for i, layer in self._layers.items() if self._remembers(layer)} - set(per_layer)
        if per_layer and missing:
            raise ValueError(f"recurrent memory of layers {sorted(missing)} is missing in the checkpoint")
        for micro_index, start in enumerate(range(0, num_rows if per_layer else 0, micro_batch_size)):
            stop = start + micro_batch_size
            self._lanes[micro_index] = tuple(
                tuple(tensor[start:stop].to(self._device) for tensor in per_layer[index])
                if index in per_layer
                else None
                for index in self._layers
            )

    def _fresh(self, num_rows: int) -> Memories:
        return tuple(
            layer.initial_memory(num_rows, device=self._device, dtype=self._dtype) for layer in self._layers.values()
        )

    def _remembers(self, layer: Layer) -> bool:
        return layer.initial_memory(1, device=self._device, dtype=self._dtype) is not None


def _mixed(is_new: Tensor, new: Memory | None, old: Memory | None) -> Memory | None:
    """Rows of `new` where `is_new`, of `old` elsewhere."""
    if new is None or old is None:
        return None
    pairs = zip(new, old, strict=True)
    return tuple(torch.where(is_new.view(-1, *[1] * (o.dim() - 1)), n, o) for n, o in pairs)


def _joined(pieces: Sequence[Memory]) -> Memory:
    return tuple(torch.cat(tensors) for tensors in zip(*pieces, strict=True))


def _saved_layers(states: Sequence[LaneState]) -> set[int]:
    return {index for state in states for index in state.memories}


def _rows_of(states: Sequence[LaneState], index: int, first_row: int, num_rows: int) -> Memory:
    """One layer's memory of a range of global rows, put together from whoever saved them."""
    rows: dict[int, tuple[Tensor, ...]] = {}
    for state in states:
        for offset, tensors in enumerate(zip(*state.memories.get(index, ()), strict=True)):
            rows[state.first_row + offset] = tensors
    missing = [row for row in range(first_row, first_row + num_rows) if row not in rows]
    if missing:
        raise ValueError(f"recurrent memory of layer {index}: rows {missing} are missing in the checkpoint")
    wanted = (rows[row] for row in range(first_row, first_row + num_rows))
    return tuple(torch.stack(torch.broadcast_tensors(*tensors)) for tensors in zip(*wanted, strict=True))
