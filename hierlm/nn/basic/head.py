"""Vectors to logits."""

import torch
from torch import Tensor

from hierlm.nn.basic.initialisation import INIT_STD, initialise
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Cache, Layer, Memory
from hierlm.nn.shape import Scheme
from hierlm.nn.stream import Stream


class LogitLinear(Linear):
    """The projection onto the vocabulary; with `soft_cap` c its results z become c tanh(z / c) (2408.00118, 2).

    The cap is the projection's own, so that whoever holds a slice of the vocabulary caps before it pads.
    """

    def __init__(self, hidden_dim: int, vocab_size: int, *, bias: bool, soft_cap: float | None) -> None:
        super().__init__(hidden_dim, vocab_size, bias=bias)
        self.soft_cap = soft_cap

    def forward(self, x: Tensor) -> Tensor:
        return soft_capped(super().forward(x), self.soft_cap)


class Head(Layer):
    """[B, T, D] -> logits [B, T, V]."""

    def __init__(
        self,
        *,
        vocab_size: int,
        hidden_dim: int,
        bias: bool = False,
        soft_cap: float | None = None,
        scheme: Scheme = "normal",
    ) -> None:
        super().__init__()
        self.projection = LogitLinear(hidden_dim, vocab_size, bias=bias, soft_cap=soft_cap)
        initialise(self, std=INIT_STD if scheme == "normal" else hidden_dim**-0.5, scheme=scheme)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        logits: Tensor = self.projection(stream.hidden)
        return stream.with_hidden(logits), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self.forward(stream)[0], cache


def soft_capped(logits: Tensor, cap: float | None) -> Tensor:
    """c tanh(z / c) in fp32 at least, in the type of the logits."""
    if cap is None:
        return logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (torch.tanh(wide / cap) * cap).to(logits.dtype)
