"""Transformer-XL: segments that attend to the remembered layer inputs of the segments before, by relative position.

Dai et al., "Transformer-XL: Attentive Language Models Beyond a Fixed-Length Context", arXiv 1901.02860, with the
settings of the authors' code.
Ours = the paper's: num_layers = N, hidden_dim = d, ffn_dim = d_inner, memory_length = M (mem_len), the phase's
sequence_length = L (tgt_len), content_bias = u, position_bias = v, position = W_{k,R}, evaluation_clamp_distance =
clamp_len, evaluation_same_length = same_length, cutoffs and div_value as in the code.

Departures:
- the memory starts with empty slots at its full length, which nobody sees, instead of growing: shapes never change.
- only the N memories that are read are kept (the code keeps one more).
- tail bin i of the adaptive softmax reads head class i (the code reads them in reversed order): the same function.
- pre_norm ends in a last LayerNorm; the code's pre-norm has none.
- the dropout of the position waves is one draw for the whole global batch, not one for each process.
"""

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from hierlm.models.config import OptionsConfig, train_switch, unless_preset
from hierlm.nn.basic.adaptive_bins import Bin, frequency_bins, num_embedding_parameters
from hierlm.nn.shape import Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hierlm.nn.layer import Layer, LayerSpec, SharedWeights
    from hierlm.nn.memory.block import Recurrence
    from hierlm.nn.shape import BlockShape

PAPER = "1901.02860, Dai et al., 2019"

TENSOR_PLAN = {
    r"layers\.\d+\.(tokens|projection)": "vocabulary",
    r"layers\.\d+\.(tables|projections)\.\d+": "replicate",
    r"layers\.\d+\.tails": "replicate",
    r"layers\.\d+\.block\.attention\.(query|key|value|position|content_bias|position_bias)": "column",
    r"layers\.\d+\.block\.attention\.output": "row",
    r"layers\.\d+\.block\.attention\.(query_norm|key_norm)": "partial",
    r"layers\.\d+\.block\.feed_forward\.(expand|gate)": "column",
    r"layers\.\d+\.block\.feed_forward\.contract": "row",
    r"layers\.\d+\.block\.(attention_norm|feed_forward_norm)": "replicate",
    r"layers\.\d+\.norm": "replicate",
}


class StackConfig(OptionsConfig):
    """Sizes of a stack of relative blocks and of the vocabulary at both of its ends."""

    num_layers: PositiveInt = Field(description="transformer blocks")
    dropout: float = train_switch(
        0.0, ge=0, lt=1, description="on what a sublayer adds and inside the feed-forward; at the ends, see below"
    )
    embedding_dropout: float | None = Field(
        default=None, ge=0, lt=1, description="on embedding, waves and what the output reads; default: dropout"
    )
    attention_dropout: float = train_switch(0.0, ge=0, lt=1, description="on the attention weights")
    pre_norm: bool = unless_preset(
        "pre_norm", False, description="normalise what enters a sublayer, not what leaves it"
    )
    share_position_biases: bool = Field(default=True, description="one u and one v for all layers")
    tie_embeddings: bool = Field(default=True, description="the output reads the embedding's tables")
    cutoffs: tuple[PositiveInt, ...] = Field(default=(), description="ends of the frequency bins; () = one softmax")
    div_value: PositiveInt = Field(default=1, description="each bin's vectors are this much narrower than the last's")

    @model_validator(mode="after")
    def sizes_fit(self) -> "StackConfig":
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be even and a multiple of num_heads {self.num_heads}")
        if self.cutoffs and (self.logit_soft_cap or self.z_loss):
            raise ValueError("cutoffs: an adaptive softmax gives no logits; write logit_soft_cap: null and z_loss: 0")
        edges = (0, *self.cutoffs, self.vocab_size)
        if any(first >= end for first, end in pairwise(edges)):
            raise ValueError(f"cutoffs {list(self.cutoffs)} must rise and stay below vocab_size {self.vocab_size}")
        if self.hidden_dim // self.div_value ** len(self.cutoffs) < 1:
            raise ValueError(f"div_value {self.div_value} leaves the last bin no width; hidden_dim {self.hidden_dim}")
        return self

    @property
    def bins(self) -> tuple[Bin, ...]:
        """The frequency bins; one of them without cut-offs."""
        return frequency_bins(
            vocab_size=self.vocab_size, cutoffs=self.cutoffs, hidden_dim=self.hidden_dim, div_value=self.div_value
        )

    @property
    def end_dropout(self) -> Rate:
        """Of the sites outside the sublayers."""
        own = self.embedding_dropout
        return Rate(self.dropout) if own is None else Rate(own, "embedding_dropout")

    @property
    def is_projected(self) -> bool:
        """Whether bins have vectors of another width than the model."""
        return self.div_value > 1


class Config(StackConfig):
    """Transformer-XL: the stack and what it remembers, in tokens."""

    memory_length: NonNegativeInt = train_switch(description="tokens remembered before the segment")
    evaluation_memory_length: NonNegativeInt | None = Field(default=None, description="default: memory_length")
    evaluation_clamp_distance: PositiveInt | None = Field(default=None, description="farther keys count as this far")
    evaluation_same_length: bool = Field(default=False, description="every token sees exactly as many keys")


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_layers + config.pre_norm + 2


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, SegmentBlock x num_layers, a last Norm if pre_norm, Head."""
    from hierlm.nn.memory.block import SegmentBlock

    return layer_list(config, [partial(SegmentBlock, **block_arguments(config))] * config.num_layers)


def layer_list(config: Config, blocks: "Sequence[Callable[..., Layer]]") -> "list[LayerSpec]":
    """`blocks` between the ends that the vocabulary asks for; what the head reads is dropped as the embedding is."""
    from hierlm.nn.basic.normalisation import Norm

    if config.pre_norm:
        last_norm = partial(Norm, config.hidden_dim, style=config.norm_style, dropout=config.end_dropout)
        return [embedding(config), *blocks, last_norm, head(config)]
    *others, last = blocks
    return [embedding(config), *others, partial(last, output_dropout=config.end_dropout), head(config)]


def block_arguments(config: Config) -> "dict[str, object]":
    """What every block of one model is built with."""
    return {
        "shape": block_shape(config),
        "wave_dropout": config.end_dropout,
        "pre_norm": config.pre_norm,
        "recurrence": recurrence(config),
    }


def block_shape(config: StackConfig) -> "BlockShape":
    """Widths of a block."""
    from hierlm.nn.shape import BlockShape

    return BlockShape(
        hidden_dim=config.hidden_dim,
        num_heads=config.num_heads,
        ffn_dim=config.ffn_dim,
        activation="relu",
        positions="relative",
        dropout=config.dropout,
        residual_scale=1.0,
        attention_dropout=Rate(config.attention_dropout, "attention_dropout"),
        feed_forward_dropout=Rate(config.dropout),
        feed_forward=config.feed_forward,
        has_biases=config.biases,
        norm=config.norm_style,
        qk_norm=config.qk_norm,
    )


def recurrence(config: Config) -> "Recurrence":
    """How much a block remembers."""
    from hierlm.nn.memory.block import Recurrence

    return Recurrence(
        memory_length=config.memory_length,
        evaluation_memory_length=config.evaluation_memory_length,
        evaluation_clamp_distance=config.evaluation_clamp_distance,
        evaluation_same_length=config.evaluation_same_length,
    )


def embedding(config: StackConfig) -> "Callable[[], Layer]":
    """One table, or one per bin."""
    from hierlm.nn.basic.adaptive_input import AdaptiveEmbed, ScaledEmbed

    width = {"hidden_dim": config.hidden_dim, "dropout": config.end_dropout}
    if not config.cutoffs:
        return partial(ScaledEmbed, vocab_size=config.vocab_size, **width)
    return partial(AdaptiveEmbed, bins=config.bins, is_projected=config.is_projected, **width)


def head(config: StackConfig) -> "Callable[[], Layer]":
    """One softmax, or the adaptive one."""
    from hierlm.nn.basic.adaptive_softmax import AdaptiveHead
    from hierlm.nn.basic.head import Head

    if not config.cutoffs:
        return partial(
            Head,
            vocab_size=config.vocab_size,
            hidden_dim=config.hidden_dim,
            bias=config.biases,
            soft_cap=config.logit_soft_cap,
        )
    return partial(AdaptiveHead, bins=config.bins, hidden_dim=config.hidden_dim, is_projected=config.is_projected)


def shared_weights(config: Config) -> "list[SharedWeights]":
    """u and v of the first block in all of them; tables of the input in the output, and its projections but the first.

    The first bin's projection stays its own, as in the authors' WikiText-103 settings.
    """
    from hierlm.nn.layer import SharedWeights

    biases = ("block.attention.content_bias.weight", "block.attention.position_bias.weight")
    users = range(2, config.num_layers + 1) if config.share_position_biases else ()
    shares = [SharedWeights(1, bias, user, bias) for user in users for bias in biases]
    if not config.tie_embeddings:
        return shares
    last = config.num_layers + 1 + config.pre_norm
    if not config.cutoffs:
        return [*shares, SharedWeights(0, "tokens.weight", last, "projection.weight")]
    tables = [f"tables.{index}.weight" for index in range(len(config.bins))]
    projections = [f"projections.{index}.weight" for index in range(1, len(config.bins)) if config.is_projected]
    return [*shares, *(SharedWeights(0, name, last, name) for name in (*tables, *projections))]


def refusals(config: StackConfig) -> dict[str, str]:
    """Parallel fields that must be 1 for this config, each with the reason."""
    if config.cutoffs:
        return {
            "tensor_parallel_degree": "model.cutoffs: an adaptive softmax is not cut over its bins; set cutoffs: []"
        }
    return {}


def num_parameters(config: StackConfig) -> int:
    """Closed form: 5D^2 of projections, a feed-forward and two norms a block; 2D for u and v; tables, projections."""
    d, norm = config.hidden_dim, config.norm_parameters()
    inside = 5 * d * d + config.qk_norm_parameters() + config.feed_forward_parameters()
    blocks = config.num_layers * (inside + 2 * norm)
    biases = 2 * d * (1 if config.share_position_biases else config.num_layers)
    return blocks + biases + norm * config.pre_norm + num_vocabulary_parameters(config)


def num_vocabulary_parameters(config: StackConfig) -> int:
    """Both ends: the input's tables, the output's own ones, one bias per token, D + 1 per tail bin."""
    bins, d = config.bins, config.hidden_dim
    ends = num_embedding_parameters(bins, hidden_dim=d, is_projected=config.is_projected)
    own_first_projection = d * d if config.is_projected else 0
    output = own_first_projection if config.tie_embeddings else ends
    has_biases = config.biases or bool(config.cutoffs)  # those of an adaptive softmax are its own
    return ends + output + has_biases * config.vocab_size + (len(bins) - 1) * (d + 1)
