"""The LMU language model's block: feed-forward or attention, Legendre memory with implicit attention, feed-forward.

2110.02402, section 4 and figure 2. Shapes: B batch, T tokens, D hidden_dim, q order, p reduced_order.
Every sublayer is pre-norm with a residual, x += f(N x), by default; the paper does not show where it normalises.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.attention.multi_head import Attention, KeyValues
from hierlm.nn.attention.positions import token_positions
from hierlm.nn.attention.visibility import Causal
from hierlm.nn.basic.dropout import Dropout, take_dropout
from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.basic.initialisation import INIT_STD, initialise
from hierlm.nn.basic.normalisation import make_norm
from hierlm.nn.basic.residual import entering, leaving
from hierlm.nn.kernels.short_softmax import softmax_over_few
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.recurrent.legendre_memory import LegendreMemory, Readout
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream


class ImplicitAttention(nn.Module):
    """Attention over the order axis of M_t, at each time step by itself: y_t = pool softmax(Q_t K_t^T) V_t.

    Q, K, V = gelu(L M_t + b), [p, D] each. The convolution is done in float32 at least: in bfloat16 the filters of
    high order are noise.
    """

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"reduce": "matrix", "reduce_bias": "vector", "pool": "matrix"}

    def __init__(
        self, *, memory: LegendreMemory, reduced_order: int, scale_scores: bool, residual_scale: float
    ) -> None:
        super().__init__()
        self.memory = memory
        self.scale_scores = scale_scores
        self.reduce = nn.Parameter(torch.randn(3 * reduced_order, memory.order) * memory.order**-0.5)
        self.reduce_bias = nn.Parameter(torch.zeros(3 * reduced_order))
        # what it pools is added to the residual stream: at the size of a mean, tokens drowned in it and, with global
        # attention, 300 steps ended 0.7 nats higher
        self.pool = nn.Parameter(torch.randn(reduced_order) * INIT_STD * residual_scale)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, needs_state: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, T, D] after `state` [B, q, D] (None = zeros) -> (y [B, T, D], the state after it if needed)."""

        def used(*reads: Tensor) -> Tensor:
            return self.attend(*(read.to(x.dtype) for read in reads))

        inputs, readouts = _at_least_float32(x), self._readouts()
        if state is not None and x.shape[1] == 1:
            state = self.memory.step(inputs[:, 0], state)
            return used(*(readout.of(state)[:, None] for readout in readouts)), state
        return self.memory.advance(inputs, readouts, use=used, state=state, needs_state=needs_state)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[B, T, p, D] three times -> [B, T, D]; softmax(Q K^T) is pooled before it meets V, so M' is never made."""
        queries, keys, values = F.gelu(queries), F.gelu(keys), F.gelu(values)
        scores = queries @ keys.transpose(-1, -2)
        if self.scale_scores:
            scores = scores * queries.shape[-1] ** -0.5
        weights = self.pool @ softmax_over_few(scores)
        return (weights[:, :, None] @ values)[:, :, 0]

    def _readouts(self) -> list[Readout]:
        pairs = zip(self.reduce.chunk(3), self.reduce_bias.chunk(3), strict=True)
        return [Readout(_at_least_float32(matrix), _at_least_float32(bias)) for matrix, bias in pairs]


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class LmuBlock(Layer):
    """One block; memory: (Legendre state [B, q, D]) if `carries_memory`, else every row starts from zeros."""

    num_writes = 3
    """To the residual stream."""

    def __init__(
        self,
        *,
        shape: BlockShape,
        memory: LegendreMemory,
        reduced_order: int,
        scale_scores: bool,
        global_attention: bool,
        carries_memory: bool,
    ) -> None:
        super().__init__()
        self.carries_memory, self.order = carries_memory, shape.order
        self.state_size = (memory.order, shape.hidden_dim)
        self.first_norm = make_norm(shape.hidden_dim, shape.norm)
        self.first = Attention(shape) if global_attention else FeedForward(shape)
        self.memory_norm = make_norm(shape.hidden_dim, shape.norm)
        self.memory = ImplicitAttention(
            memory=memory,
            reduced_order=reduced_order,
            scale_scores=scale_scores,
            residual_scale=shape.residual_scale,
        )
        self.feed_forward_norm = make_norm(shape.hidden_dim, shape.norm)
        self.feed_forward = FeedForward(shape)
        self.dropout = Dropout(shape.dropout)
        initialise(self, residual_scale=shape.residual_scale, scheme=shape.scheme)

    def initial_memory(self, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Memory | None:
        return (self._zeros(batch_size, device=device, dtype=dtype),) if self.carries_memory else None

    def _zeros(self, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
        kept = torch.float64 if dtype == torch.float64 else torch.float32  # bfloat16 would forget within a few steps
        return torch.zeros(batch_size, *self.state_size, device=device, dtype=kept)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        x, _ = self._first(stream.hidden, None)
        state = memory[0] if memory is not None and self.carries_memory else None
        x, state = self._rest(x, state, needs_state=self.carries_memory)
        return stream.with_hidden(x), (state,) if self.carries_memory and state is not None else None

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        """The state of the text so far, whatever training carries; token by token in the recurrent form."""
        x = stream.hidden
        seen, state = (None, self._zeros(len(x), device=x.device, dtype=x.dtype)) if cache is None else cache
        x, seen = self._first(x, seen)
        x, state = self._rest(x, state, needs_state=True)
        return stream.with_hidden(x), (seen, state)

    def _first(self, x: Tensor, past: KeyValues | None) -> tuple[Tensor, KeyValues | None]:
        normed = entering(x, self.first_norm, self.order)
        if isinstance(self.first, FeedForward):
            return leaving(x, self.dropout(self.first(normed)), self.first_norm, self.order), None
        first = 0 if past is None else past.num_keys
        positions = token_positions(x.shape[1], first=first, device=x.device)
        seen = self.first.key_values(normed, positions, past=past)
        mixed = self.first(normed, positions, seen=seen, rule=Causal())
        return leaving(x, self.dropout(mixed), self.first_norm, self.order), seen

    def _rest(self, x: Tensor, state: Tensor | None, *, needs_state: bool) -> tuple[Tensor, Tensor | None]:
        remembered, state = self.memory(entering(x, self.memory_norm, self.order), state, needs_state=needs_state)
        x = leaving(x, self.dropout(remembered), self.memory_norm, self.order)
        added = self.feed_forward(entering(x, self.feed_forward_norm, self.order))
        return leaving(x, self.dropout(added), self.feed_forward_norm, self.order), state

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
