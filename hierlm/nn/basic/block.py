"""The transformer block: x += Attention(N x); x += FeedForward(N x), or with the norm elsewhere (`residual`).

Shapes: B batch, T positions of this level, D hidden_dim.
"""

from typing import Literal

from torch import Tensor

from hierlm.nn.attention.head_windows import HeadWindows, SeenByWindow, WindowedAttention
from hierlm.nn.attention.multi_head import KeyValues
from hierlm.nn.attention.offset_attention import make_attention
from hierlm.nn.attention.positions import token_positions
from hierlm.nn.attention.visibility import Causal, Rule
from hierlm.nn.basic.dropout import Dropout, take_dropout
from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.basic.initialisation import initialise
from hierlm.nn.basic.normalisation import make_norm
from hierlm.nn.basic.residual import entering, leaving
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.resampling.shorten_factor import ShortenFactor
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream

Parts = Literal["sf", "s", "f"]
PAST = Causal()


class Block(Layer):
    """Self-attention (s) and feed-forward (f) at one level, or one of the two. `rule` says who sees whom.

    Neighbours lie `stride` tokens apart; with `follows_drawn_factor`, as many as the shorten factor of the step.
    """

    num_writes = 2
    """To the residual stream."""

    def __init__(
        self,
        *,
        shape: BlockShape,
        stride: int = 1,
        follows_drawn_factor: bool = False,
        parts: Parts = "sf",
        head_windows: HeadWindows | None = None,
        rule: Rule = PAST,
    ) -> None:
        super().__init__()
        self.rule = rule
        self.stride, self.order = ShortenFactor(stride), shape.order
        self.follows_drawn_factor = follows_drawn_factor
        self.attends, self.feeds_forward = "s" in parts, "f" in parts
        if self.attends:
            self.attention_norm = make_norm(shape.hidden_dim, shape.norm)
            self.attention = WindowedAttention(shape, head_windows) if head_windows else make_attention(shape)
        if self.feeds_forward:
            self.feed_forward_norm = make_norm(shape.hidden_dim, shape.norm)
            self.feed_forward = FeedForward(shape)
        self.dropout = Dropout(shape.dropout)
        initialise(self, residual_scale=shape.residual_scale, scheme=shape.scheme)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        if stream.hidden.shape[1] == 0:
            return stream, memory
        hidden, _ = self._advance(stream.hidden, None)
        return stream.with_hidden(hidden), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        if stream.hidden.shape[1] == 0:
            return stream, cache
        hidden, seen = self._advance(stream.hidden, None if cache is None else cache[0])
        return stream.with_hidden(hidden), (seen,)

    def _advance(
        self, x: Tensor, past: KeyValues | SeenByWindow | None
    ) -> tuple[Tensor, KeyValues | SeenByWindow | None]:
        seen = past
        if self.attends:
            mixed, seen = self._attended(entering(x, self.attention_norm, self.order), past)
            x = leaving(x, self.dropout(mixed), self.attention_norm, self.order)
        if self.feeds_forward:
            added = self.feed_forward(entering(x, self.feed_forward_norm, self.order))
            x = leaving(x, self.dropout(added), self.feed_forward_norm, self.order)
        return x, seen

    def _attended(self, x: Tensor, past: KeyValues | SeenByWindow | None) -> tuple[Tensor, KeyValues | SeenByWindow]:
        first = 0 if past is None else past.num_keys
        stride = self.stride.now(training=self.training)
        positions = token_positions(x.shape[1], first=first, stride=stride, device=x.device)
        seen = self.attention.key_values(x, positions, past=past)
        return self.attention(x, positions, seen=seen, rule=self.rule, stride=stride), seen

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
        if self.follows_drawn_factor:
            self.stride.begin_step(context)
