"""Dropout on attention weights: what a query takes from each key is zeroed or scaled up.

Shapes: B batch, H heads, Q queries, S keys, K head_dim.
"""

from torch import Tensor

from hierlm.nn.basic.dropout import Dropout
from hierlm.nn.kernels.fused_attention import with_keys_of_their_own
from hierlm.nn.shape import Rate


class WeightsDropout(Dropout):
    """Attention with its weights laid out one by one: fused kernels draw from a generator of their own choice.

    Whoever runs the layer may hold some of the heads.
    """

    def __init__(self, rate: Rate | float) -> None:
        super().__init__(rate, cut_dim=-3)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, bias: Tensor) -> Tensor:
        """dropout(softmax(queries keys' / sqrt K + bias)) values: [B, H, Q, K]; `bias` broadcasts to [B, H, Q, S]."""
        keys, values = with_keys_of_their_own(queries, keys, values)
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        return self((scores + bias).softmax(dim=-1)) @ values


def weights_site(rate: Rate | None) -> WeightsDropout | None:
    """A site where one is declared."""
    return None if rate is None else WeightsDropout(rate)
