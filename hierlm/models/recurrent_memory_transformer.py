"""Recurrent Memory Transformer: a segment reads a few memory vectors and writes those of the next segment.

Bulatov et al., "Recurrent Memory Transformer", arXiv 2207.06881; curriculum over the number of segments: 2304.11062.
The backbone is Transformer-XL's (1901.02860) without its cache.
Ours = the paper's: num_memory_tokens = m, segment_length = L, bptt_depth = k of BPTT-k, [read; tokens; write] =
[mem; H; mem]. A row of the phase's sequence_length holds sequence_length / segment_length segments, so a curriculum
over the number of segments is one over sequence_length.

Departures:
- replay starts from the memory that stood before the replayed window; the code starts from the newest one.
- in a row of several segments gradient stops k segments before the last; the code never cuts the first boundary.
- memory vectors are drawn independently, as long as embedded tokens (0.02 sqrt(D) a number); the code repeats one
  vector drawn from N(0, 1).
- distances inside the memory blocks may be negative and are taken as such.
- segments are counted from the beginning of a stream: an unfinished one goes on in the next call.
- dropout acts where the code drops, on the memory that is read, written and passed on too; that of the position waves
  is one draw for the whole global batch, not one for each process.
- the recurrence spans the whole depth, so embedding and blocks are one layer, which no pipeline can cut.
"""

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt, PositiveInt

from hierlm.models import transformer_xl
from hierlm.models.config import train_switch

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec, SharedWeights

PAPER = "2207.06881, Bulatov et al., 2022"

TENSOR_PLAN = {
    r"layers\.\d+": "replicate",
    r"layers\.\d+\.(embed\.tokens|projection)": "vocabulary",
    r"layers\.\d+\.(embed\.)?(tables|projections)\.\d+": "replicate",
    r"layers\.\d+\.tails": "replicate",
    r"layers\.\d+\.blocks\.\d+\.attention\.(query|key|value|position|content_bias|position_bias)": "column",
    r"layers\.\d+\.blocks\.\d+\.attention\.output": "row",
    r"layers\.\d+\.blocks\.\d+\.attention\.(query_norm|key_norm)": "partial",
    r"layers\.\d+\.blocks\.\d+\.feed_forward\.(expand|gate)": "column",
    r"layers\.\d+\.blocks\.\d+\.feed_forward\.contract": "row",
    r"layers\.\d+\.blocks\.\d+\.(attention_norm|feed_forward_norm)": "replicate",
    r"layers\.\d+\.norm": "replicate",
}

refusals = transformer_xl.refusals


class Config(transformer_xl.StackConfig):
    """The backbone and its memory."""

    num_memory_tokens: NonNegativeInt = Field(description="memory vectors m; 0 = the backbone, segment by segment")
    segment_length: PositiveInt = Field(description="tokens L of a segment, without the memory")
    bptt_depth: NonNegativeInt = train_switch(0, description="segments before the last one that its gradient reaches")
    carry_memory: bool = train_switch(True, description="false: each row of a batch starts with the learned memory")


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return 2


def layers(config: Config) -> "list[LayerSpec]":
    """MemoryTokenCell (embedding and blocks), Head."""
    from hierlm.nn.memory.block import RelativeBlock
    from hierlm.nn.memory.tokens import MemoryTokenCell, MemoryTokens

    block = partial(
        RelativeBlock,
        shape=transformer_xl.block_shape(config),
        wave_dropout=config.end_dropout,
        pre_norm=config.pre_norm,
    )
    cell = partial(
        MemoryTokenCell,
        recurrence=MemoryTokens(
            num_memory_tokens=config.num_memory_tokens,
            segment_length=config.segment_length,
            bptt_depth=config.bptt_depth,
            carry_memory=config.carry_memory,
        ),
        hidden_dim=config.hidden_dim,
        embed=transformer_xl.embedding(config),
        blocks=[block] * config.num_layers,
        share_position_biases=config.share_position_biases,
        last_norm=config.norm_style if config.pre_norm else None,
        dropout=config.end_dropout,
    )
    return [cell, transformer_xl.head(config)]


def shared_weights(config: Config) -> "list[SharedWeights]":
    """The head reads the embedding when they are tied; u and v are shared inside the cell."""
    from hierlm.nn.layer import SharedWeights

    ends = (share for share in transformer_xl.shared_weights(config) if share.owner == 0)
    return [SharedWeights(0, f"embed.{share.owner_parameter}", 1, share.user_parameter) for share in ends]


def num_parameters(config: Config) -> int:
    """Closed form: the backbone and m*D."""
    return transformer_xl.num_parameters(config) + config.num_memory_tokens * config.hidden_dim
