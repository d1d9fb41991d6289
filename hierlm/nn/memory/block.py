"""The Transformer-XL layer (1901.02860, section 3): relative attention over memory and segment, then feed-forward.

Shapes: B batch, T tokens of the segment, M memory slots, D hidden_dim.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hierlm.nn.attention.query_key_norm import make_query_key_norm
from hierlm.nn.attention.relative_attention import RelativeAttention, Seen, Sight, consecutive_sight
from hierlm.nn.basic.dropout import Dropout, site_or_none, take_dropout
from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.basic.normalisation import VectorNorm, make_norm
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.memory.slots import SegmentMemory, empty_memory
from hierlm.nn.shape import BlockShape, Rate
from hierlm.nn.stream import Stream


@dataclass(frozen=True)
class Recurrence:
    """How much is remembered, in tokens; the last three act in evaluation only."""

    memory_length: int
    evaluation_memory_length: int | None  # None: memory_length
    evaluation_clamp_distance: int | None  # None: no clamp
    evaluation_same_length: bool


class RelativeBlock(nn.Module):
    """Post-norm as published, or pre-norm: the normalisation then also acts on what is remembered."""

    def __init__(self, *, shape: BlockShape, wave_dropout: Rate, pre_norm: bool) -> None:
        super().__init__()
        assert shape.attention_dropout is not None
        self.pre_norm = pre_norm
        self.attention = RelativeAttention(
            hidden_dim=shape.hidden_dim,
            num_heads=shape.num_heads,
            dropout=wave_dropout,
            attention_dropout=shape.attention_dropout,
            query_norm=make_query_key_norm(shape),
            key_norm=make_query_key_norm(shape),
        )
        self.attention_norm = make_norm(shape.hidden_dim, shape.norm)
        self.feed_forward = FeedForward(shape)
        self.feed_forward_norm = make_norm(shape.hidden_dim, shape.norm)
        self.dropout = Dropout(shape.dropout)
        initialise_transformer_xl(self)

    def forward(self, x: Tensor, past: Tensor, sight: Sight, *, head_order: Tensor | None = None) -> Tensor:
        """x [B, T, D] after past [B, M, D] -> [B, T, D]."""
        if self.pre_norm:
            past = self.attention_norm(past)
        return self._rest(x, self.attention(self._attention_input(x), past, sight, head_order=head_order))

    def extend(self, x: Tensor, past: Seen | None, sight: Sight) -> tuple[Tensor, Seen]:
        """The same with the projections of the past kept."""
        attended, seen = self.attention.extend(self._attention_input(x), past, sight)
        return self._rest(x, attended), seen

    def _attention_input(self, x: Tensor) -> Tensor:
        return self.attention_norm(x) if self.pre_norm else x

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.dropout(attended)
        if self.pre_norm:
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x)
        normed: Tensor = self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))
        return normed


class SegmentBlock(Layer):
    """A block whose memory is its own input of the last tokens: SegmentMemory, without gradient."""

    def __init__(
        self,
        *,
        shape: BlockShape,
        wave_dropout: Rate,
        pre_norm: bool,
        recurrence: Recurrence,
        output_dropout: Rate | None = None,
    ) -> None:
        """`output_dropout`: on what leaves the block, of which the memory holds nothing."""
        super().__init__()
        self.hidden_dim = shape.hidden_dim
        self.recurrence = recurrence
        self.training_memory_length = recurrence.memory_length
        self.block = RelativeBlock(shape=shape, wave_dropout=wave_dropout, pre_norm=pre_norm)
        self.output_dropout = site_or_none(output_dropout)

    @property
    def memory_length(self) -> int:
        """M: that of the phase in training, that of evaluation otherwise."""
        evaluation = self.recurrence.evaluation_memory_length
        return self.training_memory_length if self.training or evaluation is None else evaluation

    def initial_memory(self, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Memory:
        return empty_memory(
            batch_size, length=self.memory_length, hidden_dim=self.hidden_dim, device=device, dtype=dtype
        )

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        past, x = self._past(memory, like=stream.hidden), stream.hidden
        hidden = self.output_dropout(self.block(x, past.hidden, self._sight(past, x.shape[1])))
        return stream.with_hidden(hidden), past.with_segment(x, length=self.memory_length)

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        """Like evaluation in short segments: a token sees `memory_length` tokens before its call, not the whole text.

        The projections of the remembered inputs are kept in place of the inputs.
        """
        past: Seen | None = None if cache is None else cache[0]
        x = stream.hidden
        filled = torch.ones(1, 0 if past is None else past.keys.shape[2], dtype=torch.bool, device=x.device)
        hidden, seen = self.block.extend(x, past, self._as_evaluated(consecutive_sight(filled, x.shape[1])))
        return stream.with_hidden(hidden), (seen.newest(self.memory_length),)

    def _past(self, memory: Memory | None, *, like: Tensor) -> SegmentMemory:
        """What to attend to, in the length that holds now: a phase may have changed it since the memory was made."""
        if memory is None:
            return empty_memory(len(like), length=0, hidden_dim=self.hidden_dim, device=like.device, dtype=like.dtype)
        return SegmentMemory(*memory).resized(self.memory_length)

    def _sight(self, past: SegmentMemory, num_queries: int) -> Sight:
        return self._as_evaluated(consecutive_sight(past.filled, num_queries))

    def _as_evaluated(self, sight: Sight) -> Sight:
        if self.training:
            return sight
        if self.recurrence.evaluation_same_length:
            sight = sight.same_length(self.memory_length)
        return sight.clamped(self.recurrence.evaluation_clamp_distance)

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
        self.training_memory_length = int(context.switches.get("memory_length", self.recurrence.memory_length))


def initialise_transformer_xl(module: nn.Module) -> None:
    """The reference's first weights: N(0, 0.02), biases 0, LayerNorm gains N(1, 0.02)."""
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Embedding):
            nn.init.normal_(child.weight, std=0.02)
        if isinstance(child, VectorNorm):
            nn.init.normal_(child.weight, mean=1.0, std=0.02)
        if isinstance(child, nn.Linear | nn.LayerNorm) and child.bias is not None:
            nn.init.zeros_(child.bias)
