"""The numbers and habits every transformer sublayer of one model shares. Torch-free."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

Activation = Literal["gelu", "gelu_tanh", "relu"]
FeedForwardKind = Literal["gelu", "gelu_tanh", "relu", "relu2", "swiglu"]
Positions = Literal["rotary", "relative", "sinusoidal"]
NormKind = Literal["layer", "rms"]
Order = Literal["pre", "post", "reordered"]
"""Where a sublayer's norm stands: before it, after the residual sum, or on what is added (OLMo 2, 2501.00656)."""
QueryKeyNorm = Literal["none", "head", "vector"]
RotaryLayout = Literal["half_split", "interleaved"]
Scheme = Literal["normal", "llama", "fan_in"]
DepthScaling = Literal["total", "layer", "none", "zero"]

EPSILON = 1e-5


class Widths(Protocol):
    """What a model's config says about its blocks (`hierlm.models.config.BlockConfig`)."""

    @property
    def hidden_dim(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int | None: ...
    @property
    def ffn_dim(self) -> int: ...
    @property
    def activation(self) -> Activation: ...
    @property
    def feed_forward(self) -> FeedForwardKind | None: ...
    @property
    def dropout(self) -> float: ...
    @property
    def biases(self) -> bool: ...
    @property
    def norm_style(self) -> "NormStyle": ...
    @property
    def block_order(self) -> Order: ...
    @property
    def qk_norm(self) -> QueryKeyNorm: ...
    @property
    def rotary(self) -> "Rotary": ...
    @property
    def initialisation(self) -> Scheme: ...
    @property
    def depth_scaling(self) -> DepthScaling: ...


@dataclass(frozen=True)
class Rate:
    """How often a dropout site drops a number, and the train-time switch that may change it."""

    value: float
    switch: str = "dropout"


@dataclass(frozen=True)
class NormStyle:
    """How vectors are normalised; every norm has a gain, only a LayerNorm can have a bias."""

    kind: NormKind = "layer"
    epsilon: float = EPSILON
    has_bias: bool = True


@dataclass(frozen=True)
class Rotary:
    """Pair j of K numbers turns by position * base^(-2j / K); how the pairs lie in the vector."""

    base: float = 10_000.0
    layout: RotaryLayout = "half_split"


@dataclass(frozen=True)
class BlockShape:
    """Widths and habits of a block; `residual_scale` shrinks the initial weights that write into the residual."""

    hidden_dim: int  # D
    num_heads: int  # H
    ffn_dim: int  # F
    activation: Activation
    positions: Positions
    dropout: float  # on what a sublayer adds
    residual_scale: float
    order: Order = "pre"
    attention_dropout: Rate | None = None  # on attention weights; None: no such site
    feed_forward_dropout: Rate | None = None  # on the feed-forward's hidden units
    feed_forward: FeedForwardKind | None = None  # None: two matrices around `activation`
    num_kv_heads: int | None = None  # None: as many as there are query heads
    has_biases: bool = True  # of the projections of attention and feed-forward
    norm: NormStyle = NormStyle()
    qk_norm: QueryKeyNorm = "none"
    rotary: Rotary = Rotary()
    scheme: Scheme = "normal"
    depth_scaling: DepthScaling = "total"

    @classmethod
    def of(cls, config: Widths, *, positions: Positions, num_residual_writes: int) -> "BlockShape":
        """The shape a config asks for, in a model whose residual stream is written to so many times."""
        scales = {"total": num_residual_writes**-0.5, "zero": 0.0}
        return cls(
            hidden_dim=config.hidden_dim,
            num_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            activation=config.activation,
            positions=positions,
            dropout=config.dropout,
            residual_scale=scales.get(config.depth_scaling, 1.0),
            order=config.block_order,
            feed_forward=config.feed_forward,
            num_kv_heads=config.num_kv_heads,
            has_biases=config.biases,
            norm=config.norm_style,
            qk_norm=config.qk_norm,
            rotary=config.rotary,
            scheme=config.initialisation,
            depth_scaling=config.depth_scaling,
        )

    @property
    def head_dim(self) -> int:
        """K = D / H."""
        return self.hidden_dim // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; each serves H / that many neighbouring query heads (2305.13245)."""
        return self.num_kv_heads or self.num_heads

    def at_depth(self, num_writes: int) -> "BlockShape":
        """The shape behind so many residual writes, those of this block with them."""
        return replace(self, residual_scale=num_writes**-0.5) if self.depth_scaling == "layer" else self
