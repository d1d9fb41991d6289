"""All scales at once into the tokens: the global upsampling of the bottom-up multi-scale transformer.

Shapes: B batch, T tokens, S units of all coarser scales and the null vector, D hidden_dim, K head_dim.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from hierlm.nn.attention.multi_head import Attention, KeyValues
from hierlm.nn.attention.positions import token_positions
from hierlm.nn.basic.dropout import Dropout, take_dropout
from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.basic.initialisation import initialise
from hierlm.nn.basic.normalisation import make_norm
from hierlm.nn.kernels.attend import attend_under
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream


@dataclass(frozen=True)
class EndedBy:
    """Query i sees the units whose last token is not after token i."""

    last_tokens: Tensor  # [S]
    tokens: Tensor  # [Q]

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, H, Q, K]."""
        mask = self.last_tokens[None, :] <= self.tokens[:, None]
        return attend_under(queries, keys, values, mask=mask)


class Progress(NamedTuple):
    """What decoding keeps: units so far of each scale, and all that can be attended to."""

    num_tokens: int
    num_units: tuple[int, ...]
    seen: KeyValues | None
    last_tokens: Tensor | None


class Aggregate(Layer):
    """Pops every coarser level; a = h + Attn(LN h, LN M), a += FF(LN a), M = null and all units with their scale."""

    num_writes = 2
    """To the residual stream."""

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"null": "vector", "scale_embeddings": "embedding"}

    def __init__(self, *, shape: BlockShape, scales: tuple[int, ...]) -> None:
        super().__init__()
        self.scales = scales
        self.null = nn.Parameter(torch.empty(shape.hidden_dim))
        self.scale_embeddings = nn.Parameter(torch.empty(len(scales), shape.hidden_dim))
        self.query_norm = make_norm(shape.hidden_dim, shape.norm)
        self.unit_norm = make_norm(shape.hidden_dim, shape.norm)
        self.attention = Attention(shape)
        self.feed_forward_norm = make_norm(shape.hidden_dim, shape.norm)
        self.feed_forward = FeedForward(shape)
        self.dropout = Dropout(shape.dropout)
        initialise(self, residual_scale=shape.residual_scale, scheme=shape.scheme)
        nn.init.normal_(self.null, std=0.02)
        nn.init.normal_(self.scale_embeddings, std=0.02)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        return self.decode(stream, None)[0], memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        fine, *coarse = stream.levels
        progress = Progress(*cache) if cache else Progress(0, (0,) * len(self.scales), None, None)
        tokens = token_positions(fine.shape[1], first=progress.num_tokens, device=fine.device)
        units, last_tokens = self._new_units(fine, coarse, progress)
        seen = progress.seen
        if units.shape[1]:
            seen = self.attention.key_values(self.unit_norm(units), last_tokens, past=seen)
        if progress.last_tokens is not None:
            last_tokens = torch.cat((progress.last_tokens, last_tokens))
        x = self._attended(fine, tokens, seen, EndedBy(last_tokens, tokens))
        num_units = tuple(n + level.shape[1] for n, level in zip(progress.num_units, coarse, strict=True))
        return stream.with_levels(x), Progress(progress.num_tokens + fine.shape[1], num_units, seen, last_tokens)

    def _attended(self, x: Tensor, tokens: Tensor, seen: KeyValues | None, rule: EndedBy) -> Tensor:
        assert seen is not None, "the null vector is there from the start"
        x = x + self.dropout(self.attention(self.query_norm(x), tokens, seen=seen, rule=rule))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))

    def _new_units(self, fine: Tensor, coarse: list[Tensor], progress: Progress) -> tuple[Tensor, Tensor]:
        """(units [B, S', D] not seen before, their last tokens [S']); the null vector comes first, ended at -1."""
        units, last_tokens = [], []
        if progress.seen is None:
            units.append(self.null.repeat(fine.shape[0], 1, 1))
            last_tokens.append(torch.full((1,), -1.0, device=fine.device))
        parts = zip(coarse, self.scales, progress.num_units, self.scale_embeddings, strict=True)
        for level, scale, num_before, embedding in parts:
            units.append(level + embedding)
            firsts = token_positions(level.shape[1], first=num_before, stride=scale, device=fine.device)
            last_tokens.append(firsts + scale - 1)
        return torch.cat(units, dim=1), torch.cat(last_tokens)

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
