"""Token vectors scaled by sqrt(D), from one table or from one table per frequency bin (1809.10853, section 3.1).

Shapes: B batch, T tokens, D hidden_dim, N tokens of one bin.
"""

import torch
from torch import Tensor, nn

from hierlm.nn.basic.adaptive_bins import Bin
from hierlm.nn.basic.dropout import Dropout, take_dropout
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.shape import Rate
from hierlm.nn.stream import Stream

TABLE_STD = 0.02
PROJECTION_STD = 0.01


class ScaledEmbed(Layer):
    """tokens int64 [B, T] -> sqrt(D) * embedding, [B, T, D]; without positions."""

    def __init__(self, *, vocab_size: int, hidden_dim: int, dropout: Rate | float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, hidden_dim)
        self.dropout = Dropout(dropout)
        nn.init.normal_(self.tokens.weight, std=TABLE_STD)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        x: Tensor = self.tokens(stream.hidden)
        return stream.with_hidden(self.dropout(x * x.shape[-1] ** 0.5)), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self(stream)[0], cache

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)


class AdaptiveEmbed(Layer):
    """The same from the tables of `bins`, each projected to D if `is_projected`."""

    def __init__(self, *, bins: tuple[Bin, ...], hidden_dim: int, is_projected: bool, dropout: Rate | float) -> None:
        super().__init__()
        self.bins = bins
        self.hidden_dim = hidden_dim
        self.tables = nn.ModuleList(nn.Embedding(b.size, b.width) for b in bins)
        self.projections = nn.ModuleList(Linear(b.width, hidden_dim, bias=False) for b in bins if is_projected)
        self.dropout = Dropout(dropout)
        for table in self.tables:
            nn.init.normal_(table.weight, std=TABLE_STD)
        for projection in self.projections:
            nn.init.normal_(projection.weight, std=PROJECTION_STD)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        tokens = stream.hidden.flatten()
        places = [((tokens >= b.first) & (tokens < b.end)).nonzero().flatten() for b in self.bins]
        vectors = torch.cat([self._vectors(index, tokens[place]) for index, place in enumerate(places)])
        x = vectors[torch.cat(places).argsort()].view(*stream.hidden.shape, self.hidden_dim)
        return stream.with_hidden(self.dropout(x * self.hidden_dim**0.5)), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self(stream)[0], cache

    def _vectors(self, index: int, tokens: Tensor) -> Tensor:
        """int64 [N], all of bin `index` -> [N, D]."""
        x: Tensor = self.tables[index](tokens - self.bins[index].first)
        return self.projections[index](x) if len(self.projections) else x

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
