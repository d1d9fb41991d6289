"""Position-wise feed-forward (1706.03762, section 3.3): D -> F -> D."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.basic.dropout import site_or_none
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.shape import Activation, BlockShape


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "gelu_tanh": _gelu_tanh, "relu": F.relu}


class FeedForward(nn.Module):
    """`contract(dropout(activation(expand(x))))`, [B, T, D] -> [B, T, D]; whoever runs it may hold some of F."""

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.expand = Linear(shape.hidden_dim, shape.ffn_dim)
        self.activation = ACTIVATIONS[shape.activation]
        self.dropout = site_or_none(shape.feed_forward_dropout, cut_dim=-1)
        self.contract = Linear(shape.ffn_dim, shape.hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.dropout(self.activation(self.expand(x))))
