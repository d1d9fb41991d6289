"""Layer normalisation (1607.06450) and its root mean square (1910.07467): in a block, and a layer at a stack's end."""

from torch import Tensor, nn

from hierlm.nn.basic.dropout import site_or_none, take_dropout
from hierlm.nn.kernels.rms_norm import rms_norm
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.shape import EPSILON, NormStyle, Rate
from hierlm.nn.stream import Stream

__all__ = ["EPSILON", "Norm", "RmsNorm", "VectorNorm", "layer_norm", "make_norm"]


class RmsNorm(nn.RMSNorm):
    """Over the last dimension, with gain."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.eps is not None
        return rms_norm(x, self.weight, epsilon=self.eps)


VectorNorm = nn.LayerNorm | RmsNorm
"""A norm of the vectors of the residual stream."""


def layer_norm(hidden_dim: int) -> nn.LayerNorm:
    """Over the last dimension, with gain and bias."""
    return nn.LayerNorm(hidden_dim, eps=EPSILON)


def make_norm(hidden_dim: int, style: NormStyle) -> VectorNorm:
    """Over the last dimension, as a model normalises."""
    if style.kind == "rms":
        return RmsNorm(hidden_dim, eps=style.epsilon)
    return nn.LayerNorm(hidden_dim, eps=style.epsilon, bias=style.has_bias)


class Norm(Layer):
    """Normalises the top of the stream, [B, T, D], and drops of it what is asked for."""

    def __init__(self, hidden_dim: int, *, style: NormStyle | None = None, dropout: Rate | None = None) -> None:
        super().__init__()
        self.norm = make_norm(hidden_dim, style or NormStyle())
        self.dropout = site_or_none(dropout)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        hidden: Tensor = self.dropout(self.norm(stream.hidden))
        return stream.with_hidden(hidden), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self.forward(stream)[0], cache

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
