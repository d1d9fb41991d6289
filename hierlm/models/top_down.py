"""Top-down multi-scale transformer: the coarsest scale first, every finer one conditioned on the coarser.

Subramanian et al., "Multi-scale Transformer Language Models", arXiv 2005.00581.
Ours = the paper's: "number of layers" = all blocks of all scales together.

The paper's full text was not available to us: that the scales are run from coarse to fine, by causal layers
interleaved with pooling or convolutions, is the paper's; equations, scales, alignment and positions below are our own
design. Unit m of scale s stands for tokens m*s .. m*s + s - 1 and is read from its last token on; before the first
unit is whole, a learned null vector is read. Positions are rotary, in token units, so that any length is accepted.
"""

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt, model_validator

from hierlm.models.config import MultiScaleConfig

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec, SharedWeights
    from hierlm.nn.shape import BlockShape

PAPER = "2005.00581, Subramanian et al., 2020"

TENSOR_PLAN = {
    r"layers\.\d+\.tokens": "vocabulary",
    r"layers\.\d+\.projection": "vocabulary",
    r"layers\.\d+\.attention\.(query|key|value)": "column",
    r"layers\.\d+\.attention\.output": "row",
    r"layers\.\d+\.attention\.(query_norm|key_norm)": "partial",
    r"layers\.\d+\.feed_forward\.(expand|gate)": "column",
    r"layers\.\d+\.feed_forward\.contract": "row",
    r"layers\.\d+\.(attention_norm|feed_forward_norm|norm|merge)": "replicate",
    r"layers\.\d+\.(pools\.\d+|expand)(\.project)?": "replicate",
}


class Config(MultiScaleConfig):
    """Sizes of the top-down model."""

    layers_per_scale: tuple[NonNegativeInt, ...] = Field(description="blocks of each scale, finest first")
    upsampling: Literal["repeat", "linear"] = "repeat"

    @model_validator(mode="after")
    def one_count_for_each_scale(self) -> "Config":
        if len(self.layers_per_scale) != len(self.scales):
            raise ValueError(f"layers_per_scale {list(self.layers_per_scale)}: one number for each of the scales")
        return self

    @property
    def num_blocks(self) -> int:
        """Blocks of all scales."""
        return sum(self.layers_per_scale)


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_blocks + len(config.ratios) + (len(config.scales) > 1) + 3


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, Pool, then from the coarsest scale on Block x N and Condition, last Norm and Head."""
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head
    from hierlm.nn.basic.normalisation import Norm
    from hierlm.nn.resampling.downsampling import Condition, Pool

    width = {"vocab_size": config.vocab_size, "hidden_dim": config.hidden_dim}
    pool = partial(
        Pool,
        config.downsampling,
        hidden_dim=config.hidden_dim,
        factors=config.scales[1:],
        kernel_groups=config.kernel_groups,
    )
    condition = partial(
        Condition,
        hidden_dim=config.hidden_dim,
        is_linear=config.upsampling == "linear",
        residual_scale=_shape(config).residual_scale,
    )
    specs: list[LayerSpec] = [
        partial(Embed, **width, dropout=config.dropout, sinusoidal=False, std=config.embedding_std)
    ]
    specs += [pool] if len(config.scales) > 1 else []
    for scale in reversed(range(len(config.scales))):
        if scale < len(config.ratios):
            specs.append(partial(condition, factor=config.ratios[scale]))
        specs += _stack(config, scale)
    return [
        *specs,
        partial(Norm, config.hidden_dim, style=config.norm_style),
        partial(Head, **width, **config.head_options),
    ]


def _stack(config: Config, scale: int) -> "list[LayerSpec]":
    from hierlm.nn.basic.block import Block

    return [partial(Block, shape=_shape(config), stride=config.scales[scale])] * config.layers_per_scale[scale]


def _shape(config: Config) -> "BlockShape":
    from hierlm.nn.shape import BlockShape

    return BlockShape.of(config, positions="rotary", num_residual_writes=max(1, 2 * config.num_blocks))


def shared_weights(config: Config) -> "list[SharedWeights]":
    """The head reads the embedding when they are tied."""
    from hierlm.nn.layer import SharedWeights

    last = len(layers(config)) - 1
    return [SharedWeights(0, "tokens.weight", last, "projection.weight")] if config.tie_embeddings else []


def num_parameters(config: Config) -> int:
    """Closed form: embeddings, blocks, the last norm, and for each scale change 2D^2 + D + D."""
    d = config.hidden_dim
    total = (1 if config.tie_embeddings else 2) * config.vocab_size * d + config.norm_parameters()
    total += config.num_blocks * config.block_parameters()
    total += sum(config.downsampling_parameters(scale) for scale in config.scales[1:])
    total += len(config.ratios) * (2 * d * d + 2 * d)
    if config.upsampling == "linear":
        total += sum(ratio * (d * d + d) for ratio in config.ratios)
    return total
