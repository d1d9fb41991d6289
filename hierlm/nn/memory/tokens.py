"""The Recurrent Memory Transformer's cell (2207.06881, section 3): the whole depth is one step of a recurrence.

Shapes: B batch rows, T tokens of the call, L segment_length, n tokens of one segment, m memory tokens, D hidden_dim.
A segment is [read; tokens; write]: both memory blocks are given the memory, what comes out of the write block is the
next segment's memory. Segments are counted from the beginning of the stream, not of the call: tokens of an unfinished
segment are kept and run again with what follows them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.attention.relative_attention import Seen, two_way_sight
from hierlm.nn.basic.dropout import Dropout, take_dropout
from hierlm.nn.basic.normalisation import make_norm
from hierlm.nn.config import NormStyle
from hierlm.nn.layer import Cache, Layer, Memory, StepContext
from hierlm.nn.memory.block import RelativeBlock
from hierlm.nn.memory.replay import NO_TOKEN, ReplayMemory, empty_replay, gradient_passes, saved_replay
from hierlm.nn.memory.segments import EvenSegments, Segments, UnevenSegments
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.shape import Rate
from hierlm.nn.stream import Stream


@dataclass(frozen=True)
class MemoryTokens:
    """The recurrence; the last two are those of training."""

    num_memory_tokens: int  # m
    segment_length: int  # L, tokens
    bptt_depth: int  # k: segments before the last one that its gradient reaches
    carry_memory: bool  # false: every row starts with the learned memory


class MemoryTokenCell(Layer):
    """Embedding, blocks and the learned memory [m, D]; tokens [B, T] -> [B, T, D]."""

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"memory": "embedding"}

    def __init__(
        self,
        *,
        recurrence: MemoryTokens,
        hidden_dim: int,
        embed: Callable[[], Layer],
        blocks: list[Callable[[], RelativeBlock]],
        share_position_biases: bool,
        last_norm: NormStyle | None,
        dropout: Rate,
    ) -> None:
        """`dropout`: on the memory that a segment is given and on all that leaves its last block."""
        super().__init__()
        self.recurrence = recurrence
        self.hidden_dim = hidden_dim
        self.bptt_depth, self.carry_memory = recurrence.bptt_depth, recurrence.carry_memory
        self.embed = embed()
        self.blocks = nn.ModuleList(build() for build in blocks)
        self.norm = make_norm(hidden_dim, last_norm) if last_norm else nn.Identity()
        memory = torch.randn(recurrence.num_memory_tokens, hidden_dim) * 0.02 * hidden_dim**0.5  # as embedded tokens
        if recurrence.num_memory_tokens:
            self.memory = nn.Parameter(memory)
        else:  # ZeRO takes no parameter without values: it would be in no checkpoint
            self.register_buffer("memory", memory, persistent=False)
        self.memory_dropout, self.output_dropout = Dropout(dropout), Dropout(dropout)
        if share_position_biases:
            first = self.blocks[0].attention
            for block in self.blocks[1:]:
                block.attention.content_bias.weight = first.content_bias.weight
                block.attention.position_bias.weight = first.position_bias.weight

    def initial_memory(self, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Memory:
        return empty_replay(
            batch_size,
            depth=self._depth,
            segment_length=self.recurrence.segment_length,
            num_memory_tokens=self.recurrence.num_memory_tokens,
            hidden_dim=self.hidden_dim,
            device=device,
            dtype=dtype,
        )

    @property
    def _depth(self) -> int:
        """k: without a gradient nothing is run again."""
        return self.bptt_depth if self.training else 0

    def begin_step(self, context: StepContext) -> None:
        take_dropout(self, context)
        self.bptt_depth = int(context.switches.get("bptt_depth", self.recurrence.bptt_depth))
        self.carry_memory = bool(context.switches.get("carry_memory", self.recurrence.carry_memory))

    def from_checkpoint(self, memory: Memory) -> Memory:
        return saved_replay(memory)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        tokens, length = stream.hidden, self.recurrence.segment_length
        fresh = ReplayMemory(*self.initial_memory(len(tokens), device=tokens.device, dtype=self.memory.dtype))
        keeps = self.carry_memory or not self.training
        memory = memory if keeps else None
        past = fresh if memory is None else ReplayMemory(*memory).resized(self._depth, segment_length=length)
        segments: Segments
        if past.is_even:
            segments = EvenSegments(past, tokens, segment_length=length, replays=memory is not None)
        else:
            segments = UnevenSegments(past, tokens, segment_length=length)
        hidden, written = self._run(segments)
        return stream.with_hidden(segments.new_hidden(hidden)), segments.kept(written) if keeps else fresh

    def _run(self, segments: Segments) -> tuple[list[Tensor], list[Tensor]]:
        """(hidden [B, n, D], what it wrote [B, m, D]) of each segment in turn."""
        passes = gradient_passes(num_segments=len(segments.tokens), depth=self._depth)
        first = segments.tokens[0]
        is_live = torch.zeros(len(first), dtype=torch.bool, device=first.device)
        outputs, written, incoming = [], [], None
        for index, tokens in enumerate(segments.tokens):
            kept = segments.start(index, learned=self.memory)
            start = _either(kept, incoming, is_live=is_live)
            is_live = is_live | (tokens != NO_TOKEN).any(dim=1)
            hidden, write = self._segment(tokens, start)
            outputs.append(hidden)
            written.append(torch.where(is_live[:, None, None], write, start))
            incoming = written[-1] if index == len(passes) or passes[index] else written[-1].detach()
        return outputs, written

    def _segment(self, tokens: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """tokens int64 [B, n], memory [B, m, D] -> (hidden [B, n, D], what is written [B, m, D])."""
        num_tokens, num_memory = tokens.shape[1], memory.shape[1]
        read, write = self.memory_dropout(torch.cat((memory, memory), dim=1)).tensor_split(2, dim=1)
        x = torch.cat((read, self._embedded(tokens), write), dim=1)
        sight = two_way_sight(segment_visibility(tokens != NO_TOKEN, num_memory=num_memory))
        for block in self.blocks:
            x = block(x, x[:, :0], sight)
        _, hidden, write = self.output_dropout(self.norm(x)).split((num_memory, num_tokens, num_memory), dim=1)
        return hidden, write

    def _embedded(self, tokens: Tensor) -> Tensor:
        return self.embed(Stream((tokens.clamp(min=0),)))[0].hidden

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        """The unfinished segment's projections are kept; a complete segment leaves its memory only."""
        tokens, outputs = stream.hidden, []
        progress = Progress(self.memory.expand(len(tokens), -1, -1), None, 0) if cache is None else cache[0]
        while tokens.shape[1]:
            piece = tokens[:, : self.recurrence.segment_length - progress.num_tokens]
            tokens = tokens[:, piece.shape[1] :]
            hidden, progress = self._advance(self._embedded(piece), progress)
            outputs.append(hidden)
        return stream.with_hidden(self.norm(torch.cat(outputs, dim=1))), (progress,)

    def _advance(self, x: Tensor, progress: "Progress") -> tuple[Tensor, "Progress"]:
        """Tokens x [B, n, D] that all belong to the unfinished segment."""
        memory, seen = progress.memory, progress.seen
        if seen is None:
            _, seen = self._extend(memory, [None] * len(self.blocks), is_memory=True)
        hidden, seen = self._extend(x, seen, is_memory=False)
        num_tokens = progress.num_tokens + x.shape[1]
        if num_tokens < self.recurrence.segment_length:
            return hidden, Progress(memory, seen, num_tokens)
        write, _ = self._extend(memory, seen, is_memory=True)
        return hidden, Progress(self.norm(write), None, 0)

    def _extend(self, x: Tensor, past: list[Seen | None], *, is_memory: bool) -> tuple[Tensor, list[Seen | None]]:
        """x [B, n, D] after what the blocks have seen; memory tokens see each other both ways."""
        if x.shape[1] == 0:
            return x, past
        num_past = 0 if past[0] is None else past[0].keys.shape[2]
        ones = torch.ones(1, 1, x.shape[1], num_past + x.shape[1], dtype=torch.bool, device=x.device)
        sight = two_way_sight(ones if is_memory else ones.tril(num_past))
        updated: list[Seen | None] = []
        for block, seen in zip(self.blocks, past, strict=True):
            x, new = block.extend(x, seen, sight)
            updated.append(new.without_waves())  # the next call reaches to other distances
        return x, updated


def _either(kept: Tensor | None, incoming: Tensor | None, *, is_live: Tensor) -> Tensor:
    """[B, m, D]: what the segment before wrote, in rows (`is_live`) that had one; else what is kept."""
    if kept is None:
        assert incoming is not None
        return incoming
    return kept if incoming is None else torch.where(is_live[:, None, None], incoming, kept)


class Progress(NamedTuple):
    """Where decoding stands in the unfinished segment."""

    memory: Tensor  # [B, m, D] given to it
    seen: list[Seen | None] | None  # one for each block; None: nothing yet
    num_tokens: int


def segment_visibility(is_token: Tensor, *, num_memory: int) -> Tensor:
    """bool [B, n] -> bool [B, 1, m + n + m, m + n + m], True = visible.

    Read sees read; tokens see read and the tokens up to themselves; write sees everything. No token sees write.
    """
    num_tokens = is_token.shape[1]
    place = torch.arange(num_tokens + 2 * num_memory, device=is_token.device)
    block = (place >= num_memory).int() + (place >= num_memory + num_tokens).int()
    causal = (block[:, None] > block) | ((block[:, None] == block) & ((block != 1) | (place[:, None] >= place)))
    is_there = F.pad(is_token, (num_memory, num_memory), value=True)
    return (causal & is_there[:, None, None, :]) | torch.eye(len(place), dtype=torch.bool, device=is_token.device)
