"""One LSTM layer with its state handed in and out.

Shapes: B batch rows, T tokens, D hidden_dim. Memory: (hidden [B, D], cell [B, D]) after the last token.
"""

from typing import ClassVar

import torch
from torch import nn

from hierlm.nn.basic.dropout import Dropout, take_dropout
from hierlm.nn.basic.embedding import Embed
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.stream import Stream


class UnitEmbed(Embed):
    """Token vectors of variance 1: the gates see them without a normalisation before, and small ones train slowly."""

    def __init__(self, *, vocab_size: int, hidden_dim: int, dropout: float) -> None:
        super().__init__(vocab_size=vocab_size, hidden_dim=hidden_dim, dropout=dropout, sinusoidal=False)
        nn.init.normal_(self.tokens.weight)


class LstmLayer(Layer):
    """[B, T, D] -> [B, T, D]; gradient flows through the state inside a call."""

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {
        "lstm.weight_ih_l0": "matrix",
        "lstm.weight_hh_l0": "matrix",
        "lstm.bias_ih_l0": "vector",
        "lstm.bias_hh_l0": "vector",
    }

    def __init__(self, *, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(hidden_dim, hidden_dim, batch_first=True)
        self.dropout = Dropout(dropout)

    def initial_memory(self, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Memory:
        zeros = torch.zeros(batch_size, self.lstm.hidden_size, device=device, dtype=dtype)
        return zeros, zeros.clone()

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        state = None if memory is None else tuple(part[None].contiguous() for part in memory)
        output, (hidden, cell) = self.lstm(stream.hidden, state)
        return stream.with_hidden(self.dropout(output)), (hidden[0], cell[0])

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self(stream, cache)

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
