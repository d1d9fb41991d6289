"""Hourglass: shorten the sequence, work there, upsample, once or nested.

Nawrot et al., "Hierarchical Transformers Are More Efficient Language Models", arXiv 2110.13711.
Ours = the paper's: hierarchy "2@1 8@3 2@1" = N@f, N layers on the sequence shortened f times in all; pre_layers and
post_layers = vanilla layers (f = 1); hidden_dim = d, ffn_dim = d_ff; shorten_factor = k; shorten = S, upsample = U.

Departures:
- row i of the logits predicts token i+1 and the shift by one happens in the data, not in the model: the same function.
- any length is accepted: of the sequence shifted by k-1 exactly ceil(T/k) groups are complete, so nothing is padded.
- positions: `relative` is the paper's, with u and v of each layer its own (a pipeline stage need not share them with
  all others) and all offsets in token units (the reference code leaves upsampling offsets unscaled below the first
  level); `rotary` (RoFormer, 2104.09864) by default, as it runs in the fused kernel.
- initial weights N(0, 0.02), u and v among them, residual outputs scaled by 1/sqrt(number of residual writes), instead
  of Glorot's (u and v: N(0, 1e-6)).
- the output projection has no bias, and LayerNorm adds 1e-5 to the variance; the reference code has one, and 1e-6.
- activation: `gelu` by default, as in every model here; the reference code's FastGelu is `gelu_tanh`, about twice
  as dear on a CPU and the same to a few parts in ten thousand.
- dropout acts on whole activations only (embedding, what a sublayer adds), not inside the feed-forward or attention.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from hierlm.models.config import RotaryConfig, train_switch
from hierlm.models.presets import unless_preset

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec
    from hierlm.nn.shape import BlockShape

PAPER = "2110.13711, Nawrot et al., 2021"

TENSOR_PLAN = {
    r"layers\.\d+\.tokens": "vocabulary",
    r"layers\.\d+\.projection": "vocabulary",
    r"layers\.\d+\.(resample\.)?attention\.(query|key|value|position|content_bias|position_bias)": "column",
    r"layers\.\d+\.(resample\.)?attention\.output": "row",
    r"layers\.\d+\.(resample\.)?attention\.(query_norm|key_norm)": "partial",
    r"layers\.\d+\.(resample\.)?feed_forward\.(expand|gate)": "column",
    r"layers\.\d+\.(resample\.)?feed_forward\.contract": "row",
    r"layers\.\d+\.(pool|expand)\.project": "replicate",
    r"layers\.\d+\.(attention_norm|norm|resample\.input_norm|resample\.query_norm)": "replicate",
    r"layers\.\d+\.(resample\.)?feed_forward_norm": "replicate",
}


@dataclass(frozen=True)
class Level:
    """One resolution: `factor` tokens a position, `shorten_factor` of the finer level's positions a position."""

    factor: int
    shorten_factor: int
    pre_layers: int  # before the valley; all of them at the innermost level
    post_layers: int  # after it; 0 at the innermost level


def parse_hierarchy(text: str) -> tuple[Level, ...]:
    """ "2@1 1@2 4@4 1@2 2@1" -> levels, finest first; ValueError says which rule of the notation is broken."""
    parts = [part.split("@") for part in text.replace(",", " ").split()]
    if not parts or any(len(p) != 2 or not all(number.isdigit() for number in p) for p in parts):
        raise ValueError(f"{text!r} is not a list of N@factor, as in '2@1 8@3 2@1'")
    counts, factors = [int(n) for n, _ in parts], [int(f) for _, f in parts]
    depth = len(parts) // 2
    if len(parts) % 2 == 0 or factors != factors[::-1]:
        raise ValueError(f"{text!r} is not a palindrome of factors: up again through the same levels, '2@1 8@3 2@1'")
    if counts[1:-1] != counts[1:-1][::-1]:
        raise ValueError(f"{text!r}: below the tokens a level has as many layers before its valley as after it")
    if factors[0] != 1:
        raise ValueError(f"{text!r} must start and end at the tokens, N@1 (0@1 for no layers there)")
    going_down = list(pairwise(factors[: depth + 1]))
    ratios = [1] + [coarse // fine for fine, coarse in going_down]
    for fine, coarse in going_down:
        if coarse <= fine or coarse % fine:
            raise ValueError(f"{text!r}: factor {coarse} is not a larger multiple of {fine}")
    return tuple(Level(factors[i], ratios[i], counts[i], 0 if i == depth else counts[-1 - i]) for i in range(depth + 1))


class Config(RotaryConfig):
    """Sizes of the Hourglass."""

    hierarchy: str = Field(description="the paper's notation, layers@total_factor: '2@1 8@3 2@1'")
    shortening: Literal["average", "linear", "attention"] = "attention"
    shortening_query: Literal["average", "linear"] = Field(
        default="average", description="S of attention shortening: how its queries are pooled"
    )
    upsampling: Literal["repeat", "linear", "attention"] = "attention"
    upsampling_query: Literal["saved", "repeat", "linear"] = Field(
        default="repeat", description="U of attention upsampling: what is added to the saved finer level to ask with"
    )
    positions: Literal["rotary", "relative"] = unless_preset("positions", "rotary")
    shorten_factors: tuple[PositiveInt, ...] = train_switch(
        (), description="shorten factor dropout: each training step draws one of these; evaluation uses `hierarchy`"
    )

    @field_validator("hierarchy")
    @classmethod
    def hierarchy_is_well_formed(cls, text: str) -> str:
        parse_hierarchy(text)
        return text

    @model_validator(mode="after")
    def drawn_factors_need_no_weights_of_their_own(self) -> "Config":
        if self.shorten_factors and (len(self.levels) != 2 or "linear" in (self.pooling, self.expansion)):
            raise ValueError(
                "shorten_factors needs one valley without linear pooling or upsampling, whose weights have one factor"
            )
        return self

    @property
    def pooling(self) -> str:
        """How k vectors become one, be it to ask with."""
        return self.shortening_query if self.shortening == "attention" else self.shortening

    @property
    def expansion(self) -> str:
        """How one vector becomes k, be it to ask with."""
        return self.upsampling_query if self.upsampling == "attention" else self.upsampling

    @property
    def levels(self) -> tuple[Level, ...]:
        """Finest first."""
        return parse_hierarchy(self.hierarchy)

    @property
    def num_blocks(self) -> int:
        """Blocks of all levels, without those of attention resampling."""
        return sum(level.pre_layers + level.post_layers for level in self.levels)


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_blocks + 4 * len(config.levels) - 1


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, Block x pre, Norm, Shorten, ..., Upsample, Block x post, Norm, Head."""
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head

    width = {"vocab_size": config.vocab_size, "hidden_dim": config.hidden_dim}
    return [
        partial(Embed, **width, dropout=config.dropout, sinusoidal=False, std=config.embedding_std),
        *_hourglass(config, config.levels, _block_shape(config)),
        partial(Head, **width, **config.head_options),
    ]


def _hourglass(config: Config, levels: tuple[Level, ...], shape: "BlockShape") -> "list[LayerSpec]":
    """Algorithm 1 of the paper: the finest of `levels` around the rest."""
    from hierlm.nn.resampling.shortening import Shorten
    from hierlm.nn.resampling.upsampling import Upsample

    level, rest = levels[0], levels[1:]
    before = _stack(level.pre_layers, level, shape)
    if not rest:
        return before
    between = {"factor": rest[0].shorten_factor, "shape": shape, "stride": level.factor}
    return [
        *before,
        partial(Shorten, **between, kind=config.shortening, query=config.shortening_query),
        *_hourglass(config, rest, shape),
        partial(Upsample, **between, kind=config.upsampling, query=config.upsampling_query),
        *_stack(level.post_layers, level, shape),
    ]


def _stack(num_layers: int, level: Level, shape: "BlockShape") -> "list[LayerSpec]":
    """Blocks of one level and, as in the reference code, one LayerNorm after them."""
    from hierlm.nn.basic.block import Block
    from hierlm.nn.basic.normalisation import Norm

    return [
        *[partial(Block, shape=shape, stride=level.factor, follows_drawn_factor=level.factor > 1)] * num_layers,
        partial(Norm, shape.hidden_dim, style=shape.norm),
    ]


def _block_shape(config: Config) -> "BlockShape":
    from hierlm.nn.shape import BlockShape

    num_writes = max(1, 2 * config.num_blocks + 4 * (len(config.levels) - 1))
    return BlockShape.of(config, positions=config.positions, num_residual_writes=num_writes)


def num_parameters(config: Config) -> int:
    """Closed form: embeddings, blocks, a norm per stack, and per valley its shortening and upsampling."""
    d, norm = config.hidden_dim, config.norm_parameters()
    block = config.block_parameters(is_relative=config.positions == "relative")
    total = 2 * config.vocab_size * d + config.num_blocks * block
    total += (2 * len(config.levels) - 1) * norm
    for level in config.levels[1:]:
        k = level.shorten_factor
        total += k * d * d + d if config.pooling == "linear" else 0
        total += k * (d * d + d) if config.expansion == "linear" else 0
        total += norm  # of what is added back
        total += (block + norm) * ((config.shortening == "attention") + (config.upsampling == "attention"))
    return total
