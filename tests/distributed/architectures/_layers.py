"""The layers of `reporting`: one says losses and metrics, the other reads an input of the batch."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from hierlm.nn.inputs import DOCUMENTS, TOKENS
from hierlm.nn.layer import Cache, Layer, Memory
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.stream import Stream

NEWLINE = 10


class Probe(Layer):
    """Reports a loss that only it can give a gradient, a mean, a sum, and a mean of many numbers made one."""

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"direction": "vector"}

    def __init__(self, *, hidden_dim: int, weight: float) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.ones(hidden_dim))
        self.weight = weight

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        x, tokens = stream.hidden, stream.inputs[TOKENS]
        stream = stream.with_loss("probe", ((x @ self.direction - 1) ** 2).mean(dim=1), weight=self.weight)
        stream = stream.with_mean("hidden_size", x.norm(dim=-1).mean(dim=1))
        stream = stream.with_sum("newlines", (tokens == NEWLINE).float().sum(dim=1))
        of_rows = (tokens[..., None] == torch.arange(256, device=tokens.device)).float().mean(dim=1)
        return stream.with_mean("token_entropy", of_rows, finish=entropy), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return stream, cache


class DocumentReader(Layer):
    """Lifts the vectors of every other document, by so much that a loss shows it."""

    def __init__(self, *, is_blind: bool) -> None:
        super().__init__()
        self.is_blind = is_blind

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        documents = stream.inputs[DOCUMENTS] * (not self.is_blind)
        lift = 10 * (documents % 2)
        return stream.with_hidden(stream.hidden + lift[..., None].to(stream.hidden.dtype)), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return self.forward(stream)[0], cache


def entropy(shares: Tensor) -> float:
    """Nats of a distribution."""
    return float(torch.special.entr(shares).sum())
