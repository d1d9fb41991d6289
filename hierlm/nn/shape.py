"""The numbers every transformer sublayer of one model shares. Torch-free."""

from dataclasses import dataclass
from typing import Literal, Protocol

Activation = Literal["gelu", "gelu_tanh", "relu"]
Positions = Literal["rotary", "relative", "sinusoidal"]


class Widths(Protocol):
    """What a model's config says about its blocks."""

    @property
    def hidden_dim(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def ffn_dim(self) -> int: ...
    @property
    def activation(self) -> Activation: ...
    @property
    def dropout(self) -> float: ...


@dataclass(frozen=True)
class Rate:
    """How often a dropout site drops a number, and the train-time switch that may change it."""

    value: float
    switch: str = "dropout"


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
    norm_first: bool = True  # False: the norm comes after each residual sum
    attention_dropout: Rate | None = None  # on attention weights; None: no such site
    feed_forward_dropout: Rate | None = None  # on the feed-forward's hidden units

    @classmethod
    def of(
        cls, config: Widths, *, positions: Positions, num_residual_writes: int, norm_first: bool = True
    ) -> "BlockShape":
        """The shape a config asks for, in a model whose residual stream is written to so many times."""
        return cls(
            hidden_dim=config.hidden_dim,
            num_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            activation=config.activation,
            positions=positions,
            dropout=config.dropout,
            residual_scale=num_residual_writes**-0.5,
            norm_first=norm_first,
        )

    @property
    def head_dim(self) -> int:
        """K = D / H."""
        return self.hidden_dim // self.num_heads
