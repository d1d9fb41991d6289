"""Layer normalisation (1607.06450), as a piece of a block and as a layer of its own at the end of a stack."""

from torch import Tensor, nn

from hierlm.nn.basic.dropout import site_or_none, take_dropout
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.shape import Rate
from hierlm.nn.stream import Stream

EPSILON = 1e-5


def layer_norm(hidden_dim: int) -> nn.LayerNorm:
    """Over the last dimension, with gain and bias."""
    return nn.LayerNorm(hidden_dim, eps=EPSILON)


class Norm(Layer):
    """Normalises the top of the stream, [B, T, D], and drops of it what is asked for."""

    def __init__(self, hidden_dim: int, *, dropout: Rate | None = None) -> None:
        super().__init__()
        self.norm = layer_norm(hidden_dim)
        self.dropout = site_or_none(dropout)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        hidden: Tensor = self.dropout(self.norm(stream.hidden))
        return stream.with_hidden(hidden), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self.forward(stream)[0], cache

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
