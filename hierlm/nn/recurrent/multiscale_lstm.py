"""Recurrent layers that update, copy or flush, as the boundaries they find say (HM-LSTM, 1609.01704).

Shapes: B batch, T tokens, E embedding_dim, L levels, N hidden_dim of a level, O output_dim.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hierlm.nn.basic.normalisation import layer_norm
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.stream import Stream


class StepFunction(torch.autograd.Function):
    """1 where the hard sigmoid max(0, min(1, (a s + 1) / 2)) exceeds one half; its derivative is the gradient."""

    @staticmethod
    def forward(context, s: Tensor, slope: float) -> Tensor:  # type: ignore[no-untyped-def]
        context.save_for_backward(s)
        context.slope = slope
        return (s > 0).to(s.dtype)

    @staticmethod
    def backward(context, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (s,) = context.saved_tensors
        return gradient * (s.abs() < 1 / context.slope) * (context.slope / 2), None


class LevelState(NamedTuple):
    """One level at one time: cell and output [B, N], boundary [B, 1]."""

    cell: Tensor
    output: Tensor
    boundary: Tensor


class LevelCell(nn.Module):
    """One level (equations 1-7)."""

    def __init__(self, *, below_dim: int, hidden_dim: int, has_above: bool, normalised: bool) -> None:
        super().__init__()
        self.num_gates = 4 * hidden_dim
        rows = self.num_gates + int(has_above)  # the top level closes nothing
        self.from_below = Linear(below_dim, rows)
        self.recurrent = Linear(hidden_dim, rows, bias=False)
        self.from_above = Linear(hidden_dim, rows, bias=False) if has_above else None
        self.norm = layer_norm(self.num_gates) if normalised else None

    def forward(
        self, below: Tensor, below_boundary: Tensor, before: LevelState, above_output: Tensor | None, *, slope: float
    ) -> LevelState:
        """below = W h of the level below without bias, [B, rows]; `above_output` [B, N] is that of the step before."""
        s = self.recurrent(before.output) + below_boundary * below
        if self.from_above is not None:
            s = s + before.boundary * self.from_above(above_output)
        gates = s[:, : self.num_gates]
        gates = gates if self.norm is None else self.norm(gates)
        forget, entry, exit_, candidate = (gates + self.from_below.bias[: self.num_gates]).chunk(4, dim=1)
        written = torch.sigmoid(entry) * torch.tanh(candidate)
        updated = torch.sigmoid(forget) * before.cell + written
        flush = before.boundary
        update, copy = (1 - flush) * below_boundary, (1 - flush) * (1 - below_boundary)
        cell = flush * written + copy * before.cell + update * updated
        output = copy * before.output + (1 - copy) * torch.sigmoid(exit_) * torch.tanh(cell)
        return LevelState(cell, output, self._boundary(s, below_boundary, slope=slope))

    def _boundary(self, s: Tensor, below_boundary: Tensor, *, slope: float) -> Tensor:
        """Nothing above closes where nothing below did: on COPY, and on a FLUSH that reads nothing from below."""
        if self.from_above is None:
            return torch.zeros_like(below_boundary)
        raw = s[:, self.num_gates :] + self.from_below.bias[self.num_gates :]
        return StepFunction.apply(raw, slope) * below_boundary.detach()


class MultiscaleLSTM(Layer):
    """[B, T, E] -> outputs of all levels side by side, [B, T, L * N]; the state of the levels is the memory."""

    def __init__(self, *, embedding_dim: int, hidden_dim: int, num_levels: int, normalised: bool, slope: float) -> None:
        super().__init__()
        self.hidden_dim, self.slope = hidden_dim, slope
        self.cells = nn.ModuleList(
            LevelCell(
                below_dim=hidden_dim if level else embedding_dim,
                hidden_dim=hidden_dim,
                has_above=level < num_levels - 1,
                normalised=normalised,
            )
            for level in range(num_levels)
        )

    def initial_memory(self, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Memory:
        """(cells, outputs [B, L, N], boundaries [B, L, 1]) of streams that have seen nothing."""
        wide = torch.zeros(batch_size, len(self.cells), self.hidden_dim, device=device, dtype=dtype)
        return wide, wide.clone(), wide[..., :1].clone()

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        x = stream.hidden
        if memory is None:
            memory = self.initial_memory(x.shape[0], device=x.device, dtype=x.dtype)
        states = [LevelState(*parts) for parts in zip(*(part.unbind(1) for part in memory), strict=True)]
        inputs = x @ self.cells[0].from_below.weight.T  # of all times at once: the only part that needs no recurrence
        outputs = []
        for now in inputs.unbind(1):
            states = self._stepped(now, states)
            outputs.append(torch.cat([state.output for state in states], dim=1))
        updated = tuple(torch.stack(parts, dim=1) for parts in zip(*states, strict=True))
        return stream.with_hidden(torch.stack(outputs, dim=1)), updated

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self(stream, cache)

    def _stepped(self, below: Tensor, before: list[LevelState]) -> list[LevelState]:
        """One token through all levels, from the lowest up."""
        after: list[LevelState] = []
        boundary = torch.ones_like(before[0].boundary)
        for level, cell in enumerate(self.cells):
            above = before[level + 1].output if level + 1 < len(before) else None
            state = cell(below, boundary, before[level], above, slope=self.slope)
            after.append(state)
            if level + 1 < len(before):
                boundary, below = state.boundary, state.output @ self.cells[level + 1].from_below.weight.T
        return after

    def begin_step(self, context: StepContext) -> None:
        self.slope = float(context.switches.get("slope", self.slope))  # type: ignore[arg-type]


class GatedOutput(Layer):
    """ReLU(sum_l sigmoid(w_l . [h^1; ...; h^L]) W_l h^l), [B, T, L * N] -> [B, T, O] (section 4.1)."""

    def __init__(self, *, hidden_dim: int, num_levels: int, output_dim: int) -> None:
        super().__init__()
        self.gates = Linear(num_levels * hidden_dim, num_levels, bias=False)
        self.levels = nn.ModuleList(Linear(hidden_dim, output_dim, bias=False) for _ in range(num_levels))

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        outputs = stream.hidden
        gates = torch.sigmoid(self.gates(outputs)).unbind(-1)
        parts = outputs.chunk(len(self.levels), dim=-1)
        total = sum(gate[..., None] * level(part) for gate, level, part in zip(gates, self.levels, parts, strict=True))
        return stream.with_hidden(torch.relu(total)), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self.forward(stream)[0], cache
