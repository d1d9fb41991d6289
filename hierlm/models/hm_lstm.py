"""HM-LSTM: stacked recurrent levels that find their own boundaries and update only where one is found below.

Chung, Ahn and Bengio, "Hierarchical Multiscale Recurrent Neural Networks", arXiv 1609.01704.
Ours = the paper's: boundary = z, cell = c, output = h, slope = a, from_below = W, recurrent = U_l, from_above = U_l+1.

Departures:
- LayerNorm (layer_norm) acts on the sum of the three parts of the gates, before the bias: the paper does not say where.
- first weights of the levels uniform within 1/sqrt(fan-in), of the embedding N(0, 1): the paper does not say.
- a boundary needs one below it. On COPY that is the paper's (several ports evaluate the detector there all the same);
  after a FLUSH that reads nothing from below the paper is silent, and a second boundary would close an empty segment.
"""

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, PositiveFloat, PositiveInt

from hierlm.models.config import ModelConfig, train_switch

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec

PAPER = "1609.01704, Chung et al., 2016"

TENSOR_PLAN = {
    r"layers\.\d+\.tokens": "vocabulary",
    r"layers\.\d+\.projection": "vocabulary",
    r"layers\.\d+\.cells\.\d+\.(from_below|recurrent|from_above|norm)": "replicate",
    r"layers\.\d+\.(gates|levels\.\d+)": "replicate",
}


class Config(ModelConfig):
    """Sizes of the recurrent levels."""

    hidden_dim: PositiveInt = Field(description="units of each level")
    num_levels: PositiveInt = Field(default=3, ge=2)
    embedding_dim: PositiveInt = 128
    output_dim: PositiveInt = Field(description="width of the gated output that the softmax reads")
    layer_norm: bool = True
    slope: PositiveFloat = train_switch(1.0, description="a of the hard sigmoid behind the boundary's gradient")


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return 4


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, MultiscaleLSTM, GatedOutput, Head."""
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head
    from hierlm.nn.recurrent.multiscale_lstm import GatedOutput, MultiscaleLSTM

    levels = {"hidden_dim": config.hidden_dim, "num_levels": config.num_levels}
    return [
        partial(
            Embed,
            vocab_size=config.vocab_size,
            hidden_dim=config.embedding_dim,
            dropout=None,
            sinusoidal=False,
            std=1.0,
        ),
        partial(
            MultiscaleLSTM,
            **levels,
            embedding_dim=config.embedding_dim,
            normalised=config.layer_norm,
            slope=config.slope,
        ),
        partial(GatedOutput, **levels, output_dim=config.output_dim),
        partial(Head, vocab_size=config.vocab_size, hidden_dim=config.output_dim, bias=True),
    ]


def num_parameters(config: Config) -> int:
    """Closed form: rows x (below + own + above + bias) a level, gates and maps of the output, both ends."""
    n, num_levels, total = config.hidden_dim, config.num_levels, 0
    for level in range(num_levels):
        has_above = level < num_levels - 1
        below = n if level else config.embedding_dim
        total += (4 * n + has_above) * (below + n + n * has_above + 1) + 8 * n * config.layer_norm
    total += num_levels * num_levels * n + num_levels * n * config.output_dim
    return total + config.vocab_size * (config.embedding_dim + config.output_dim + 1)
