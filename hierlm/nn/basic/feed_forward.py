"""Position-wise feed-forward: D -> F -> D (1706.03762, section 3.3), or gated (SwiGLU, 2002.05202)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.basic.dropout import site_or_none
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.shape import BlockShape, FeedForwardKind


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _squared_relu(x: Tensor) -> Tensor:
    """2109.08668, section 4.1."""
    return F.relu(x).square()


ACTIVATIONS: dict[FeedForwardKind, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _squared_relu,
    "swiglu": F.silu,
}


class FeedForward(nn.Module):
    """`contract(dropout(activation(expand(x))))`, [B, T, D] -> [B, T, D]; whoever runs it may hold some of F.

    Gated: `contract(dropout(silu(gate(x)) * expand(x)))`.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        kind: FeedForwardKind = shape.feed_forward or shape.activation
        self.expand = Linear(shape.hidden_dim, shape.ffn_dim, bias=shape.has_biases)
        self.gate = Linear(shape.hidden_dim, shape.ffn_dim, bias=shape.has_biases) if kind == "swiglu" else None
        self.activation = ACTIVATIONS[kind]
        self.dropout = site_or_none(shape.feed_forward_dropout, cut_dim=-1)
        self.contract = Linear(shape.ffn_dim, shape.hidden_dim, bias=shape.has_biases)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.contract(self.dropout(self.activation(self.expand(x))))
        return self.contract(self.dropout(self.activation(self.gate(x)) * self.expand(x)))
