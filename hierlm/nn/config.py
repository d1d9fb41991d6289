"""The words a config may use of blocks, and what they come to. Torch-free."""

from dataclasses import dataclass
from typing import Literal

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
