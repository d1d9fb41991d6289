"""Legendre Memory Unit language model: a fixed linear memory of the past, read by attention over its coefficients.

Chilkuri et al., "Language Modeling using LMUs: 10x Better Data Efficiency or Improved Scaling Compared to
Transformers", arXiv 2110.02402; parallel form: "Parallelizing Legendre Memory Unit Training", 2102.11417.
Ours = the paper's: hidden_dim = d, memory_order = q, reduced_order = q', window_length = theta, ffn_dim = d',
reduce = L_1..3, pool = p; `global_attention: true` is LMU_G.

Our choices, where the paper is silent:
- window_length is given; the papers' configs take the sequence length.
- pre-norm with a residual around each of a block's three sublayers, and a last LayerNorm.
- no positions in LMU_G's attention: the memory knows the order.
- `chunk_length`: rows are read piece by piece, with the memory handed on, every piece in blocks that are one product
  each: the same function, and time and memory grow with the row's length, not faster. `null` is the paper's one
  convolution over the row, by FFT.
- `carry_memory` chains the rows of a stream; the paper trains on independent sequences, the default.
Departures:
- the FFT is causal up to rounding; blocks, and convolutions of up to 64 tokens, are triangular products and exactly so.
- initial weights N(0, 0.02), residual outputs, the pooling p among them, scaled by 1/sqrt(number of residual writes).
"""

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt, model_validator

from hierlm.models.config import BlockConfig

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec, SharedWeights

PAPER = "2110.02402, Chilkuri et al., 2021"

TENSOR_PLAN = {
    r"layers\.\d+\.(tokens|projection)": "vocabulary",
    r"layers\.\d+\.first\.(query|key|value)": "column",
    r"layers\.\d+\.first\.output": "row",
    r"layers\.\d+\.first\.(query_norm|key_norm)": "partial",
    r"layers\.\d+\.(first|feed_forward)\.(expand|gate)": "column",
    r"layers\.\d+\.(first|feed_forward)\.contract": "row",
    r"layers\.\d+\.memory": "replicate",
    r"layers\.\d+\.(first_norm|memory_norm|feed_forward_norm|norm)": "replicate",
}


class Config(BlockConfig):
    """Sizes of the LMU; lengths in tokens."""

    num_layers: PositiveInt = Field(description="LMU blocks")
    num_heads: PositiveInt = Field(default=1, description="heads of the global attention, if there is one")
    memory_order: PositiveInt = Field(description="Legendre coefficients q of each channel")
    reduced_order: PositiveInt = Field(description="rows q' that queries, keys and values have; the paper: q / 10")
    window_length: PositiveInt = Field(description="how far back theta the memory reaches")
    chunk_length: PositiveInt | None = Field(default=512, description="tokens read at once; null: the row, by FFT")
    global_attention: bool = Field(
        default=False, description="causal attention in place of a block's first feed-forward"
    )
    scale_scores: bool = Field(default=False, description="divide the implicit attention's scores by sqrt(hidden_dim)")
    carry_memory: bool = Field(default=False, description="a row starts with the memory its stream had before")
    tie_embeddings: bool = Field(default=True, description="the output projection reads the embedding's weights")

    @model_validator(mode="after")
    def attention_reads_one_row(self) -> "Config":
        if self.global_attention and self.carry_memory:
            raise ValueError("global_attention sees one row only: set carry_memory: false")
        if not self.global_attention and self.num_kv_heads:
            raise ValueError("num_kv_heads: heads are those of the global attention; set global_attention: true")
        return self


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_layers + 3


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, LmuBlock x num_layers, Norm, Head."""
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head
    from hierlm.nn.basic.normalisation import Norm
    from hierlm.nn.recurrent.legendre_memory import LegendreMemory
    from hierlm.nn.recurrent.lmu_block import LmuBlock
    from hierlm.nn.shape import BlockShape

    # positions of the attention: none, and the embedding adds none
    shape = BlockShape.of(config, positions="sinusoidal", num_residual_writes=3 * config.num_layers)
    block = partial(
        LmuBlock,
        shape=shape,
        memory=LegendreMemory(config.memory_order, config.window_length, config.chunk_length),
        reduced_order=config.reduced_order,
        scale_scores=config.scale_scores,
        global_attention=config.global_attention,
        carries_memory=config.carry_memory,
    )
    width = {"vocab_size": config.vocab_size, "hidden_dim": config.hidden_dim}
    return [
        partial(Embed, **width, dropout=config.dropout, sinusoidal=False, std=config.embedding_std),
        *[block] * config.num_layers,
        partial(Norm, config.hidden_dim, style=config.norm_style),
        partial(Head, **width, **config.head_options),
    ]


def shared_weights(config: Config) -> "list[SharedWeights]":
    """The head reads the embedding when they are tied."""
    from hierlm.nn.layer import SharedWeights

    tied = SharedWeights(0, "tokens.weight", config.num_layers + 2, "projection.weight")
    return [tied] if config.tie_embeddings else []


def num_parameters(config: Config) -> int:
    """Closed form: 3(qq' + q') + q' for the memory, 2DF + F + D a feed-forward, 4(D^2 + D) an attention, 2D a norm."""
    d, q, reduced = config.hidden_dim, config.memory_order, config.reduced_order
    feed_forward, norm = config.feed_forward_parameters(), config.norm_parameters()
    first = config.attention_parameters() if config.global_attention else feed_forward
    block = 3 * (q * reduced + reduced) + reduced + first + feed_forward + 3 * norm
    matrices = 1 if config.tie_embeddings else 2
    return matrices * config.vocab_size * d + config.num_layers * block + norm
