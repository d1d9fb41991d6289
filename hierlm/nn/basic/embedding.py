"""Tokens to vectors, with or without absolute positions."""

from torch import Tensor, nn

from hierlm.nn.attention.positions import sinusoids, token_positions
from hierlm.nn.basic.dropout import site_or_none, take_dropout
from hierlm.nn.basic.initialisation import INIT_STD, initialise
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.stream import Stream


class Embed(Layer):
    """tokens int64 [B, T] -> [B, T, D]; with `sinusoidal`, sqrt(D) * embedding + wave (1706.03762, section 3.4-3.5)."""

    def __init__(
        self, *, vocab_size: int, hidden_dim: int, dropout: float | None, sinusoidal: bool, std: float = INIT_STD
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, hidden_dim)
        self.dropout = site_or_none(dropout)
        self.sinusoidal = sinusoidal
        initialise(self, std=std)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        return stream.with_hidden(self._embedded(stream.hidden, first=0)), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        first = 0 if cache is None else int(cache[0])
        hidden = self._embedded(stream.hidden, first=first)
        return stream.with_hidden(hidden), (first + stream.hidden.shape[1],)

    def _embedded(self, tokens: Tensor, *, first: int) -> Tensor:
        x: Tensor = self.tokens(tokens)
        if self.sinusoidal:
            positions = token_positions(tokens.shape[1], first=first, device=tokens.device)
            x = x * x.shape[-1] ** 0.5 + sinusoids(positions, x.shape[-1]).to(x.dtype)
        dropped: Tensor = self.dropout(x)
        return dropped

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
