"""What every architecture's Config has in common. Torch-free: config errors are found without torch."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, field_validator, model_validator

from hierlm.models.presets import Preset, preset_value, unless_preset
from hierlm.nn.shape import (
    EPSILON,
    Activation,
    DepthScaling,
    FeedForwardKind,
    NormKind,
    NormStyle,
    Order,
    Rotary,
    RotaryLayout,
    Scheme,
)
from hierlm.strict import Strict


def train_switch(default: Any = ..., **kwargs: Any) -> Any:
    """A field that a phase may change (`phases.N.model.<field>`) without changing the weights' shapes."""
    return Field(default, json_schema_extra={"train_switch": True}, **kwargs)


class ModelConfig(Strict):
    """Base of `hierlm.models.<arch>.Config`; `arch` is the file name."""

    arch: str
    vocab_size: PositiveInt = Field(default=256, description="tokens of the tokenizer; 256 for bytes")

    @classmethod
    def train_switches(cls) -> frozenset[str]:
        """Names of the fields a phase may change."""
        return frozenset(
            name
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("train_switch")
        )


def width_from_ratio(data: Mapping[str, Any]) -> int | None:
    """F as `ffn_ratio`, or that of the preset, says: rounded down, then up to a multiple (Llama's rule)."""
    ratio = data.get("ffn_ratio") or preset_value(data, "ffn_ratio", None)
    if ratio is None:
        return None
    width, multiple = int(ratio * data["hidden_dim"]), int(data["ffn_multiple_of"])
    return math.ceil(width / multiple) * multiple


def _is_said(value: Any) -> Any:
    if value is None:
        raise ValueError("write it, or ffn_ratio: 4 for as many times hidden_dim")
    return value


class OptionsConfig(ModelConfig):
    """What models of attention and feed-forward have in common, whatever their blocks."""

    preset: Preset | None = Field(
        default=None, description="defaults of today for what is not written below; the resolved config holds them"
    )
    logit_soft_cap: PositiveFloat | None = Field(
        default=None, description="logits z become c tanh(z / c) (Gemma 2, 2408.00118); null: they stay as they are"
    )
    z_loss: float = unless_preset(
        "z_loss", 0.0, ge=0, description="weight of logsumexp(logits)^2 in training (PaLM, 2204.02311); told apart"
    )
    hidden_dim: PositiveInt = Field(description="width D of the residual stream")
    num_heads: PositiveInt = Field(description="attention heads H; hidden_dim / num_heads numbers each")
    ffn_ratio: PositiveFloat | None = Field(
        default=None, description="in place of ffn_dim: F is this times D, rounded up to a multiple of ffn_multiple_of"
    )
    ffn_multiple_of: PositiveInt = unless_preset(
        "ffn_multiple_of", 1, description="of what F from a ratio is a multiple"
    )
    ffn_dim: Annotated[PositiveInt, BeforeValidator(_is_said)] = Field(
        default_factory=width_from_ratio,
        validate_default=True,
        description="width F inside the feed-forward",
    )
    feed_forward: FeedForwardKind | None = unless_preset(
        "feed_forward", None, description="swiglu has three matrices (2002.05202), the others two; null: see activation"
    )
    biases: bool = unless_preset(
        "biases", True, description="of attention, feed-forward, LayerNorms and output projection, where it has one"
    )
    norm: NormKind = unless_preset("norm", "layer", description="rms: RMSNorm (1910.07467), without bias")
    norm_epsilon: PositiveFloat = unless_preset(
        "norm_epsilon", EPSILON, description="added to the variance or the mean square"
    )
    qk_norm: Literal["none", "head", "vector"] = unless_preset(
        "qk_norm", "none", description="RMSNorm of queries and keys: of each head (Qwen 3), of all together (OLMo 2)"
    )

    @model_validator(mode="after")
    def width_is_said_once(self) -> "OptionsConfig":
        if self.ffn_ratio is not None and self.ffn_dim != width_from_ratio(self.__dict__):
            raise ValueError(
                f"ffn_dim {self.ffn_dim} is not what ffn_ratio {self.ffn_ratio} gives "
                f"({width_from_ratio(self.__dict__)}); write one of them"
            )
        return self

    @property
    def kv_heads(self) -> int:
        """G: heads of keys and values."""
        return self.num_heads

    def norm_parameters(self) -> int:
        """Of one norm of the stream."""
        return self.hidden_dim * (2 if self.norm == "layer" and self.biases else 1)

    def qk_norm_parameters(self) -> int:
        """Gains of both norms."""
        head_dim = self.hidden_dim // self.num_heads
        return {"none": 0, "head": 2 * head_dim, "vector": self.hidden_dim + head_dim * self.kv_heads}[self.qk_norm]

    def feed_forward_parameters(self) -> int:
        """2 D F + F + D, or three matrices."""
        d, f, is_gated = self.hidden_dim, self.ffn_dim, self.feed_forward == "swiglu"
        return (2 + is_gated) * d * f + self.biases * ((1 + is_gated) * f + d)


class BlockConfig(OptionsConfig):
    """What every architecture made of transformer blocks has in common; the defaults are those of the papers."""

    num_kv_heads: PositiveInt | None = Field(
        default=None, description="heads of keys and values, each for as many query heads (2305.13245); null: num_heads"
    )
    dropout: float = train_switch(0.0, ge=0, lt=1, description="on the embedding and on what a sublayer adds")
    activation: Activation = Field(default="gelu", description="of a feed-forward of two matrices")
    block_order: Order = unless_preset(
        "block_order", "pre", description="x + f(N x), N(x + f(x)), or x + N(f(x)) as in OLMo 2 (2501.00656)"
    )
    initialisation: Scheme = Field(
        default="normal",
        description="N(0, 0.02); llama: embedding N(0, 1), head D^-1/2; fan_in: (width in)^-1/2, cut at 3 sigma",
    )
    depth_scaling: DepthScaling = Field(
        default="total",
        description="first weights that write into the stream, over sqrt(all writes), sqrt(writes so far), 1; or 0",
    )

    @model_validator(mode="after")
    def heads_divide_the_width(self) -> "BlockConfig":
        if self.hidden_dim % self.num_heads or (self.hidden_dim // self.num_heads) % 2:
            raise ValueError(f"hidden_dim {self.hidden_dim} must be num_heads ({self.num_heads}) times an even number")
        if self.num_heads % self.kv_heads:
            raise ValueError(f"num_kv_heads {self.num_kv_heads} must divide num_heads {self.num_heads}")
        return self

    @model_validator(mode="after")
    def activation_is_said_once(self) -> "BlockConfig":
        is_default = self.activation == type(self).model_fields["activation"].default
        if not is_default and self.feed_forward not in (None, self.activation):
            raise ValueError(f"activation {self.activation} and feed_forward {self.feed_forward}: write one of them")
        return self

    @property
    def kv_heads(self) -> int:
        """G: heads of keys and values."""
        return self.num_kv_heads or self.num_heads

    @property
    def rotary(self) -> Rotary:
        """How rotary positions turn."""
        return Rotary()

    @property
    def embedding_std(self) -> float:
        """Of the embedding's first weights."""
        if self.initialisation == "normal":
            return 0.02
        return self.hidden_dim**-0.5 if getattr(self, "tie_embeddings", False) else 1.0

    @property
    def norm_style(self) -> NormStyle:
        """How vectors are normalised."""
        return NormStyle(self.norm, self.norm_epsilon, self.biases)

    @property
    def head_options(self) -> dict[str, Any]:
        """What the output projection is built with, beside its widths."""
        return {"soft_cap": self.logit_soft_cap, "scheme": self.initialisation}

    def attention_parameters(self, *, is_relative: bool = False) -> int:
        """2 (D^2 + D) for queries and output, 2 (D G K + G K) for keys and values; relative: D^2 + D, and u and v."""
        d, g = self.hidden_dim, self.hidden_dim // self.num_heads * self.kv_heads
        total = 2 * d * d + 2 * d * g + self.biases * (2 * d + 2 * g) + self.qk_norm_parameters()
        return total + is_relative * (d * d + self.biases * d + 2 * d)

    def block_parameters(self, *, is_relative: bool = False) -> int:
        """Attention, feed-forward and a norm of each."""
        mixing = self.attention_parameters(is_relative=is_relative) + self.feed_forward_parameters()
        return mixing + 2 * self.norm_parameters()


class RotaryConfig(BlockConfig):
    """Blocks whose attention knows positions by rotations."""

    rotary_base: PositiveFloat = unless_preset(
        "rotary_base",
        10_000.0,
        description="pair j of K numbers turns by position * base^(-2j/K); small for short rows",
    )
    rotary_layout: RotaryLayout = Field(
        default="half_split", description="pairs (j, j + K/2), or (2j, 2j + 1): another order of the same weights"
    )

    @model_validator(mode="after")
    def rotations_are_asked_for(self) -> "RotaryConfig":
        positions = getattr(self, "positions", "rotary")
        odd = [f for f in ("rotary_base", "rotary_layout") if getattr(self, f) != self._unset(f)]
        if positions != "rotary" and odd:
            raise ValueError(f"{' and '.join(odd)}: for positions rotary, and positions is {positions}")
        return self

    def _unset(self, field: str) -> Any:
        """What a field is where nobody writes it."""
        info = type(self).model_fields[field]
        return info.get_default(call_default_factory=True, validated_data=self.__dict__)

    @property
    def rotary(self) -> Rotary:
        """How rotary positions turn."""
        return Rotary(self.rotary_base, self.rotary_layout)


class MultiScaleConfig(RotaryConfig):
    """What the three multi-scale transformers have in common."""

    scales: tuple[PositiveInt, ...] = Field(
        default=(1, 4, 16), min_length=1, description="tokens a position, finest first; each divides the next"
    )
    downsampling: Literal["average", "convolution", "linear"] = "average"
    kernel_groups: PositiveInt = Field(default=2, description="groups a strided convolution reads; 1 = linear")
    tie_embeddings: bool = Field(default=False, description="the output projection reads the embedding's weights")

    @field_validator("scales")
    @classmethod
    def scales_are_nested(cls, scales: tuple[int, ...]) -> tuple[int, ...]:
        if scales[0] != 1 or any(coarse <= fine or coarse % fine for fine, coarse in pairwise(scales)):
            raise ValueError(f"{list(scales)} must be 1, then each a larger multiple of the one before")
        return scales

    @property
    def ratios(self) -> tuple[int, ...]:
        """Positions of each scale that make one of the next coarser scale."""
        return tuple(coarse // fine for fine, coarse in pairwise(self.scales))

    def downsampling_parameters(self, factor: int) -> int:
        """Weights of one down-sampling by `factor`."""
        groups = {"average": 0, "linear": 1, "convolution": self.kernel_groups}[self.downsampling]
        return groups * factor * self.hidden_dim**2 + self.hidden_dim if groups else 0
