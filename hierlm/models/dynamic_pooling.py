"""Dynamic token pooling: an Hourglass whose groups are words, pieces, surprises or learned, or fixed as a control.

Nawrot, Chorowski, Lancucki and Ponti, "Efficient Transformers with Dynamic Token Pooling", arXiv 2211.09761.
Ours = the paper's: pre_layers, valley_layers, post_layers = [2, (8), 2]; boundaries = b_t, 1 where a group ends;
gumbel_rate = alpha, the prior share of boundaries.

Departures:
- evaluation thresholds the boundary probability at one half also for `gumbel`; the reference code samples, so that
  there the logits of a prefix are no prefix of the logits.
- the boundary loss is the cross entropy of the predictor's logits; the reference code applies a sigmoid twice.
- `unigram` boundaries are learned from a sentencepiece model run on the bytes of each row, not from stored marks. Where
  a word ends has two readings, `unigram_word_end`: at its last letter (the paper's words, ours by default), or at the
  space after it (`space`, the reference code, and so the config of the quoted number).
- u and v of relative attention belong to each layer, as in our Hourglass; dropout acts on whole activations only: none
  on attention weights (the code's dropatt, 0.1 in its text8 configs), inside the feed-forward or on the position waves.
- first weights: the null group N(0, 0.02) and norm gains 1; in the code N(0, 1) and N(1, 0.02).
- max_groups (ours) states how many groups a row may have, for layouts that need one shape for all rows.
"""

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from hierlm.models.config import RotaryConfig
from hierlm.models.presets import unless_preset
from hierlm.nn.shape import DepthScaling, Order

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec
    from hierlm.nn.resampling.unigram import UnigramEnds

PAPER = "2211.09761, Nawrot et al., 2022"

TENSOR_PLAN = {
    r"layers\.\d+\.tokens": "vocabulary",
    r"layers\.\d+\.projection": "vocabulary",
    r"layers\.\d+\.attention\.(query|key|value|position|content_bias|position_bias)": "column",
    r"layers\.\d+\.attention\.output": "row",
    r"layers\.\d+\.attention\.(query_norm|key_norm)": "partial",
    r"layers\.\d+\.feed_forward\.(expand|gate)": "column",
    r"layers\.\d+\.feed_forward\.contract": "row",
    r"layers\.\d+\.(attention_norm|feed_forward_norm|norm)": "replicate",
    r"layers\.\d+\.predictor\.hidden\.(expand|contract)": "replicate",
    r"layers\.\d+\.null": "replicate",
}


class Config(RotaryConfig):
    """Sizes of the dynamic pooling transformer, and how its groups are found."""

    pre_layers: NonNegativeInt = 2
    valley_layers: NonNegativeInt = 8
    post_layers: NonNegativeInt = 2
    boundaries: Literal["fixed", "whitespace", "unigram", "entropy", "gumbel"] = "whitespace"
    fixed_factor: PositiveInt = Field(default=4, description="tokens a group, for `fixed`")
    separators: tuple[NonNegativeInt, ...] = Field(
        default=(32,), description="tokens that end a group, for `whitespace`; 32 is the space as a byte"
    )
    unigram_model: str | None = Field(default=None, description="sentencepiece model file, for `unigram`")
    unigram_word_end: Literal["letter", "space"] = Field(
        default="letter", description="where a word's last piece ends, for `unigram`; space: as in the reference code"
    )
    gumbel_rate: float = Field(default=0.2, gt=0, lt=1, description="prior share of boundaries, for `gumbel`")
    gumbel_temperature: PositiveFloat = 0.5
    max_groups: PositiveInt | None = Field(default=None, description="groups a row may have; default: as many as end")
    positions: Literal["rotary", "relative"] = unless_preset("positions", "relative")
    block_order: Order = unless_preset(
        "block_order", "post", description="as elsewhere; all but post have a last norm before the output projection"
    )
    depth_scaling: DepthScaling = unless_preset(
        "depth_scaling", "none", description="as elsewhere; total: over sqrt(2 x blocks)"
    )

    @model_validator(mode="after")
    def boundaries_have_what_they_need(self) -> "Config":
        if self.boundaries == "unigram" and (self.unigram_model is None or self.vocab_size != 256):
            raise ValueError("boundaries: unigram needs byte tokens (vocab_size 256) and unigram_model: FILE")
        if self.boundaries == "whitespace" and not self.separators:
            raise ValueError("boundaries: whitespace needs separators: the tokens that end a group")
        return self

    @property
    def num_blocks(self) -> int:
        """Blocks on tokens and on groups."""
        return self.pre_layers + self.valley_layers + self.post_layers

    @property
    def has_last_norm(self) -> bool:
        """Whether the stream ends without a norm of its own."""
        return self.block_order != "post"

    @property
    def has_predictor(self) -> bool:
        """Whether boundaries are predicted, with a loss of their own."""
        return self.boundaries not in ("fixed", "whitespace")


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_blocks + 4 + config.has_last_norm + (config.boundaries == "entropy")


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, Block x pre, PoolGroups, Block x valley, ReadGroups, Block x post, a Norm unless it is post-norm, Head."""
    from hierlm.nn.basic.block import Block
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head
    from hierlm.nn.basic.normalisation import Norm
    from hierlm.nn.resampling.dynamic_pooling import BoundaryLoss, BoundaryRule, PoolGroups, ReadGroups
    from hierlm.nn.shape import BlockShape

    shape = BlockShape.of(config, positions=config.positions, num_residual_writes=max(1, 2 * config.num_blocks))
    rule = BoundaryRule(
        kind=config.boundaries,
        fixed_factor=config.fixed_factor,
        gumbel_rate=config.gumbel_rate,
        gumbel_temperature=config.gumbel_temperature,
        max_groups=config.max_groups,
        separators=config.separators,
        unigram_ends=_unigram_ends(config),
    )
    block = partial(Block, shape=shape)
    width = {"vocab_size": config.vocab_size, "hidden_dim": config.hidden_dim, "dropout": config.dropout}
    return [
        partial(Embed, **width, sinusoidal=False, std=config.embedding_std),
        *[block] * config.pre_layers,
        partial(PoolGroups, shape=shape, rule=rule),
        *[block] * config.valley_layers,
        ReadGroups,
        *[block] * config.post_layers,
        *[partial(Norm, config.hidden_dim, style=config.norm_style)] * config.has_last_norm,
        partial(
            Head,
            vocab_size=config.vocab_size,
            hidden_dim=config.hidden_dim,
            bias=config.biases,
            **config.head_options,
        ),
        *[BoundaryLoss] * (config.boundaries == "entropy"),
    ]


def _unigram_ends(config: Config) -> "UnigramEnds | None":
    from hierlm.nn.resampling.unigram import UnigramEnds

    if config.boundaries != "unigram" or config.unigram_model is None:
        return None
    return UnigramEnds(config.unigram_model, word_end=config.unigram_word_end)


def refusals(config: Config) -> dict[str, str]:
    """Parallel fields that must be 1 for this config, each with the reason."""
    refused = {}
    if config.boundaries != "fixed" and config.max_groups is None:
        refused["pipeline_parallel_degree"] = "the number of groups varies; state model.max_groups"
    return refused


def num_parameters(config: Config) -> int:
    """Closed form: embeddings and output bias, blocks, null group and norm, and the boundary predictor."""
    d, f = config.hidden_dim, config.ffn_dim
    block = config.block_parameters(is_relative=config.positions == "relative")
    total = 2 * config.vocab_size * d + config.biases * config.vocab_size + config.num_blocks * block
    norms = (1 + config.has_last_norm) * config.norm_parameters()
    return total + d + norms + (d * f + 2 * f + 1 if config.has_predictor else 0)
