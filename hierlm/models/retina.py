"""Retina: one stack whose layers see the recent past sharply and the older past in ever coarser units.

Subramanian et al., "Multi-scale Transformer Language Models", arXiv 2005.00581.

The paper's full text was not available to us: compressing the representations of tokens further in the past is the
paper's; scales, windows, tiling and positions below are our own design. A query's past is cut into consecutive
ranges: tokens up to windows[0] back, then units of scales[1] tokens, and so on; each layer pools the units from its own
input. A unit has the rotary position of its last token and, in each layer, the learned embedding of its scale (0 at
the start). With windows[0] at least the length this is exactly the plain transformer.
"""

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt, model_validator

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
    r"layers\.\d+\.(attention_norm|feed_forward_norm|norm|scale_embeddings)": "replicate",
    r"layers\.\d+\.pools\.\d+\.project": "replicate",
}


class Config(MultiScaleConfig):
    """Sizes of the retina model."""

    num_layers: PositiveInt = Field(description="transformer blocks")
    windows: tuple[PositiveInt, ...] = Field(
        default=(64, 32), description="units of each scale but the coarsest that a query sees, finest first"
    )

    @model_validator(mode="after")
    def one_window_for_each_scale_but_the_coarsest(self) -> "Config":
        if len(self.windows) != len(self.scales) - 1:
            raise ValueError(f"windows {list(self.windows)}: one number for each of the scales but the coarsest")
        return self


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_layers + 3


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, RetinaBlock x num_layers, Norm, Head."""
    from hierlm.nn.attention.retina import RetinaBlock, RetinaView
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head
    from hierlm.nn.basic.normalisation import Norm
    from hierlm.nn.shape import BlockShape

    block = partial(
        RetinaBlock,
        shape=BlockShape.of(config, positions="rotary", num_residual_writes=2 * config.num_layers),
        view=RetinaView(config.scales, config.windows),
        downsampling=config.downsampling,
        kernel_groups=config.kernel_groups,
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

    last = config.num_layers + 2
    return [SharedWeights(0, "tokens.weight", last, "projection.weight")] if config.tie_embeddings else []


def num_parameters(config: Config) -> int:
    """Closed form: that of the transformer, and for each layer and coarser scale an embedding and a pooling."""
    d = config.hidden_dim
    block = config.block_parameters() + sum(d + config.downsampling_parameters(scale) for scale in config.scales[1:])
    return (
        (1 if config.tie_embeddings else 2) * config.vocab_size * d
        + config.num_layers * block
        + config.norm_parameters()
    )
