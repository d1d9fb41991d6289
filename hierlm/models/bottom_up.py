"""Bottom-up multi-scale transformer: ever coarser scales, then all of them aggregated into the tokens at once.

Subramanian et al., "Multi-scale Transformer Language Models", arXiv 2005.00581.
Ours = the paper's: "number of layers" = all blocks of all scales together, the aggregation layer not counted.

The paper's full text was not available to us: gradual compression, one attention-based aggregation of all scales (a
single global upsampling) and fine layers after it are the paper's, as later papers report; equations, scales, masks
and positions below are our own design. Unit m of scale s stands for tokens m*s .. m*s + s - 1 and is seen from its
last token on; a learned null vector is always seen. Fine layers before the first compression (layers_per_scale[0])
are reported absent in the paper and essential by the Hourglass paper; 0 is allowed. Positions are rotary, in tokens.
"""

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt, model_validator

from hierlm.models.config import MultiScaleConfig

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec, SharedWeights

PAPER = "2005.00581, Subramanian et al., 2020"

TENSOR_PLAN = {
    r"layers\.\d+\.tokens": "vocabulary",
    r"layers\.\d+\.projection": "vocabulary",
    r"layers\.\d+\.attention\.(query|key|value)": "column",
    r"layers\.\d+\.attention\.output": "row",
    r"layers\.\d+\.attention\.(query_norm|key_norm)": "partial",
    r"layers\.\d+\.feed_forward\.(expand|gate)": "column",
    r"layers\.\d+\.feed_forward\.contract": "row",
    r"layers\.\d+\.(attention_norm|feed_forward_norm|query_norm|unit_norm|norm)": "replicate",
    r"layers\.\d+\.pools\.\d+\.project": "replicate",
    r"layers\.\d+\.(null|scale_embeddings)": "replicate",
}


class Config(MultiScaleConfig):
    """Sizes of the bottom-up model."""

    layers_per_scale: tuple[NonNegativeInt, ...] = Field(description="blocks of each scale, finest first")
    post_layers: NonNegativeInt = Field(default=1, description="blocks on the tokens after the aggregation")

    @model_validator(mode="after")
    def one_count_for_each_scale(self) -> "Config":
        if len(self.layers_per_scale) != len(self.scales):
            raise ValueError(f"layers_per_scale {list(self.layers_per_scale)}: one number for each of the scales")
        return self

    @property
    def num_blocks(self) -> int:
        """Blocks of all scales, without the aggregation."""
        return sum(self.layers_per_scale) + self.post_layers

    @property
    def num_aggregations(self) -> int:
        """0 where there is only one scale."""
        return int(len(self.scales) > 1)


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_blocks + config.num_aggregations + len(config.scales) + 2


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, for each scale Pool and Block x N, then Aggregate, Block x post_layers, Norm, Head."""
    from hierlm.nn.basic.block import Block
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head
    from hierlm.nn.basic.normalisation import Norm
    from hierlm.nn.resampling.aggregation import Aggregate
    from hierlm.nn.resampling.downsampling import Pool
    from hierlm.nn.shape import BlockShape

    d = config.hidden_dim
    num_writes = max(1, 2 * (config.num_blocks + config.num_aggregations))
    shape = BlockShape.of(config, positions="rotary", num_residual_writes=num_writes)
    pool = partial(Pool, config.downsampling, hidden_dim=d, kernel_groups=config.kernel_groups)
    specs: list[LayerSpec] = [
        partial(
            Embed,
            vocab_size=config.vocab_size,
            hidden_dim=d,
            dropout=config.dropout,
            sinusoidal=False,
            std=config.embedding_std,
        )
    ]
    for index, scale in enumerate(config.scales):
        specs += [partial(pool, factors=(config.ratios[index - 1],))] if index else []
        specs += [partial(Block, shape=shape, stride=scale)] * config.layers_per_scale[index]
    specs += [partial(Aggregate, shape=shape, scales=config.scales[1:])] * config.num_aggregations
    specs += [partial(Block, shape=shape)] * config.post_layers
    return [
        *specs,
        partial(Norm, d, style=config.norm_style),
        partial(Head, vocab_size=config.vocab_size, hidden_dim=d, **config.head_options),
    ]


def shared_weights(config: Config) -> "list[SharedWeights]":
    """The head reads the embedding when they are tied."""
    from hierlm.nn.layer import SharedWeights

    last = len(layers(config)) - 1
    return [SharedWeights(0, "tokens.weight", last, "projection.weight")] if config.tie_embeddings else []


def num_parameters(config: Config) -> int:
    """Closed form: embeddings, blocks; the aggregation is one more with a norm, D and D a scale."""
    d = config.hidden_dim
    total = (1 if config.tie_embeddings else 2) * config.vocab_size * d + config.norm_parameters()
    total += (config.num_blocks + config.num_aggregations) * config.block_parameters()
    total += sum(config.downsampling_parameters(ratio) for ratio in config.ratios)
    return total + config.num_aggregations * (config.norm_parameters() + d + len(config.ratios) * d)
