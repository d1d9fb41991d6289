"""Decoder-only pre-norm transformer: the baseline of the hierarchical papers.

Vaswani et al., "Attention is all you need", arXiv 1706.03762; pre-norm order as in GPT-2 (Radford et al., 2019).
Ours = the paper's: hidden_dim = d_model, num_heads = h, ffn_dim = d_ff, num_layers = N.

Departures:
- pre-norm with a last LayerNorm instead of post-norm: trains without tuning the warm-up at every depth.
- positions: rotary (RoFormer, 2104.09864) by default; `sinusoidal` is the paper's; `relative` is Transformer-XL's
  (1901.02860) without segment recurrence, the baseline of the Hourglass paper.
- the output projection has no bias, as in GPT-2.
- sandwich = k orders the sublayers s^k (sf)^(n-k) f^k (Press et al., 1911.03864); the paper is k = 0.
- attention_windows gives the heads windows of different lengths (multi-scale self-attention, Guo et al., 1912.00544,
  made causal). That paper's sets of windows and its rule for each layer were not available to us, so both are ours:
  windows are listed in the config and shared out by `heads_per_window`.
- dropout acts on the embedding and on what a sublayer adds; `attention_dropout` and `feed_forward_dropout` add it on
  attention weights and on the feed-forward's hidden units.
"""

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from hierlm.models.config import RotaryConfig, train_switch
from hierlm.models.presets import unless_preset

if TYPE_CHECKING:
    from hierlm.nn.attention.head_windows import HeadWindows
    from hierlm.nn.layer import LayerSpec, SharedWeights
    from hierlm.nn.shape import BlockShape

PAPER = "1706.03762, Vaswani et al., 2017"

TENSOR_PLAN = {
    r"layers\.\d+\.tokens": "vocabulary",
    r"layers\.\d+\.projection": "vocabulary",
    r"layers\.\d+\.attention\.(scales\.\d+\.)?(query|key|value|position|content_bias|position_bias)": "column",
    r"layers\.\d+\.attention\.(scales\.\d+\.)?output": "row",
    r"layers\.\d+\.attention\.(scales\.\d+\.)?(query_norm|key_norm)": "partial",
    r"layers\.\d+\.feed_forward\.(expand|gate)": "column",
    r"layers\.\d+\.feed_forward\.contract": "row",
    r"layers\.\d+\.(attention_norm|feed_forward_norm|norm)": "replicate",
}


class Config(RotaryConfig):
    """Sizes of the transformer."""

    num_layers: PositiveInt = Field(description="transformer blocks")
    positions: Literal["rotary", "sinusoidal", "relative"] = unless_preset("positions", "rotary")
    tie_embeddings: bool = Field(default=False, description="the output projection reads the embedding's weights")
    attention_dropout: float = train_switch(
        0.0, ge=0, lt=1, description="on attention weights; above 0 training lays them out, O(T * T) memory a head"
    )
    feed_forward_dropout: float = train_switch(0.0, ge=0, lt=1, description="on the feed-forward's hidden units")
    sandwich: NonNegativeInt = Field(default=0, description="k of s^k (sf)^(n-k) f^k; 0 is the usual order")
    attention_windows: tuple[NonNegativeInt, ...] = Field(
        default=(), description="tokens a head looks back over, its own included, smallest first; 0 = all of the past"
    )
    window_slope: float = Field(
        default=0.5, ge=0, description="how strongly the first layers prefer small windows; 0 = equal shares"
    )

    @model_validator(mode="after")
    def options_fit_together(self) -> "Config":
        if self.sandwich > self.num_layers:
            raise ValueError(f"sandwich {self.sandwich} must be at most num_layers {self.num_layers}")
        if self.attention_windows and (self.kv_heads != self.num_heads or self.qk_norm == "vector"):
            raise ValueError(
                "attention_windows: heads of one window are an attention of their own; it goes with num_kv_heads null "
                "and qk_norm none or head"
            )
        if self.attention_windows and self.positions == "relative":
            raise ValueError(
                "attention_windows needs positions rotary or sinusoidal: relative attention is not windowed"
            )
        return self


def heads_per_window(*, num_heads: int, num_windows: int, height: float, slope: float) -> list[int]:
    """How many heads each of the windows, smallest first, gets in the layer at `height`, 0 = bottom to 1 = top.

    Shares softmax(-rank * slope * (1 - height)), rounded to whole heads by the largest remainder.
    """
    weights = [math.exp(-rank * slope * (1 - height)) for rank in range(num_windows)]
    exact = [num_heads * weight / sum(weights) for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(num_windows), key=lambda rank: (counts[rank] - exact[rank], rank))
    for rank in by_remainder[: num_heads - sum(counts)]:
        counts[rank] += 1
    return counts


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_layers + config.sandwich + 3


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, Block x num_layers (fewer but cut in two at both ends in a sandwich), Norm, Head."""
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head
    from hierlm.nn.basic.normalisation import Norm
    from hierlm.nn.shape import BlockShape, Rate

    shape = BlockShape.of(config, positions=config.positions, num_residual_writes=2 * config.num_layers)
    shape = replace(
        shape,
        attention_dropout=Rate(config.attention_dropout, "attention_dropout"),
        feed_forward_dropout=Rate(config.feed_forward_dropout, "feed_forward_dropout"),
    )
    width = {"vocab_size": config.vocab_size, "hidden_dim": config.hidden_dim}
    return [
        partial(
            Embed,
            **width,
            dropout=config.dropout,
            sinusoidal=config.positions == "sinusoidal",
            std=config.embedding_std,
        ),
        *_blocks(config, shape),
        partial(Norm, config.hidden_dim, style=config.norm_style),
        partial(Head, **width, **config.head_options),
    ]


def _blocks(config: Config, shape: "BlockShape") -> "list[LayerSpec]":
    """The n-th attention has the n-th layer's windows, wherever a sandwich puts its feed-forward."""
    from hierlm.nn.basic.block import Block

    k, n = config.sandwich, config.num_layers
    attends = [partial(Block, shape=shape, head_windows=_head_windows(config, layer)) for layer in range(n)]
    return [
        *[partial(block, parts="s") for block in attends[:k]],
        *attends[k:],
        *[partial(Block, shape=shape, parts="f")] * k,
    ]


def _head_windows(config: Config, layer: int) -> "HeadWindows | None":
    if not config.attention_windows:
        return None
    height = layer / max(config.num_layers - 1, 1)
    counts = heads_per_window(
        num_heads=config.num_heads,
        num_windows=len(config.attention_windows),
        height=height,
        slope=config.window_slope,
    )
    pairs = zip(config.attention_windows, counts, strict=True)
    return tuple((window or None, count) for window, count in pairs if count)


def shared_weights(config: Config) -> "list[SharedWeights]":
    """The head reads the embedding when they are tied."""
    from hierlm.nn.layer import SharedWeights

    if not config.tie_embeddings:
        return []
    return [SharedWeights(0, "tokens.weight", len(layers(config)) - 1, "projection.weight")]


def num_parameters(config: Config) -> int:
    """Closed form: V*D per embedding matrix, the blocks (gains of head windows their own), and the last norm."""
    matrices = 1 if config.tie_embeddings else 2
    block = config.block_parameters(is_relative=config.positions == "relative")
    total = matrices * config.vocab_size * config.hidden_dim + config.num_layers * block + config.norm_parameters()
    parts = [len(windows) if (windows := _head_windows(config, n)) else 1 for n in range(config.num_layers)]
    return total + sum(part - 1 for part in parts) * config.qk_norm_parameters()
