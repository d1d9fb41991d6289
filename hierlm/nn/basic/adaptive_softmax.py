"""Adaptive softmax over frequency bins (1609.04309), with the tables and projections of an adaptive input if tied.

Shapes: B batch, T tokens, D hidden_dim, V vocab_size, C tail bins.
log p(y) = log p(y | head) for the first bin, log p(bin | head) + log p(y | bin) for the tails; the head's classes are
the first bin's tokens and one class per tail, in the order of the bins. The scores of the tails' classes are made, like
those of the first bin's tokens, from what the first projection leaves: the authors' code (1901.02860).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.basic.adaptive_bins import Bin
from hierlm.nn.basic.adaptive_input import PROJECTION_STD, TABLE_STD
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Cache, Layer, Memory
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.stream import Stream


class IntoBin(nn.Module):
    """[..., D] -> [..., width] by a weight [D, width]: the transpose of the input's projection, so it can be tied."""

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"weight": "matrix"}

    def __init__(self, *, hidden_dim: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(hidden_dim, width))
        nn.init.normal_(self.weight, std=PROJECTION_STD)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class AdaptiveHead(Layer):
    """[B, T, D] -> log-probabilities [B, T, V]: logits whose softmax is themselves."""

    def __init__(self, *, bins: tuple[Bin, ...], hidden_dim: int, is_projected: bool) -> None:
        super().__init__()
        self.bins = bins
        self.tables = nn.ModuleList(Linear(b.width, b.size) for b in bins)
        self.projections = nn.ModuleList(IntoBin(hidden_dim=hidden_dim, width=b.width) for b in bins if is_projected)
        self.tails = Linear(bins[0].width, len(bins) - 1)
        for linear in (*self.tables, self.tails):
            nn.init.normal_(linear.weight, std=TABLE_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        x = stream.hidden
        head = self._head(x)
        tails = [
            head[..., self.bins[0].size + index, None] + self._within(index + 1, x) for index in range(self.num_tails)
        ]
        return stream.with_hidden(torch.cat((head[..., : self.bins[0].size], *tails), dim=-1)), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self(stream)[0], cache

    @property
    def num_tails(self) -> int:
        """C."""
        return len(self.bins) - 1

    def _head(self, x: Tensor) -> Tensor:
        """[..., first bin's size + C] log-probabilities."""
        first = self._projected(0, x)
        return F.log_softmax(torch.cat((self.tables[0](first), self.tails(first)), dim=-1), dim=-1)

    def _within(self, index: int, x: Tensor) -> Tensor:
        """[..., bin's size] log-probabilities given the bin."""
        return F.log_softmax(self.tables[index](self._projected(index, x)), dim=-1)

    def _projected(self, index: int, x: Tensor) -> Tensor:
        """[..., D] -> [..., width of the bin]."""
        return self.projections[index](x) if len(self.projections) else x
