"""Vectors to logits."""

from torch import Tensor

from hierlm.nn.basic.initialisation import initialise
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Cache, Layer, Memory
from hierlm.nn.stream import Stream


class Head(Layer):
    """[B, T, D] -> logits [B, T, V]."""

    def __init__(self, *, vocab_size: int, hidden_dim: int, bias: bool = False) -> None:
        super().__init__()
        self.projection = Linear(hidden_dim, vocab_size, bias=bias)
        initialise(self)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        logits: Tensor = self.projection(stream.hidden)
        return stream.with_hidden(logits), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self.forward(stream)[0], cache
