"""LSTM language model: the recurrent baseline of the LMU's scaling study.

Hochreiter & Schmidhuber, "Long Short-Term Memory", 1997; as a language model in Kaplan et al., "Scaling Laws for
Neural Language Models", arXiv 2001.08361, and in 2110.02402, section 5.
Ours = the paper's: hidden_dim = d, num_layers = number of LSTM layers, memory = (h, c).

Departures: the embedding and the output projection are not tied; dropout acts on layer outputs only.
"""

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from hierlm.models.config import ModelConfig, train_switch

if TYPE_CHECKING:
    from hierlm.nn.layer import LayerSpec

PAPER = "Hochreiter & Schmidhuber, 1997; 2001.08361"

TENSOR_PLAN = {
    r"layers\.\d+\.(tokens|projection)": "vocabulary",
    r"layers\.\d+\.lstm": "replicate",
}


class Config(ModelConfig):
    """Sizes of the LSTM."""

    num_layers: PositiveInt = Field(description="LSTM layers")
    hidden_dim: PositiveInt = Field(description="width D of embedding, hidden and cell state")
    dropout: float = train_switch(0.0, ge=0, lt=1, description="on the embedding and on each layer's output")


def list_length(config: Config) -> int:
    """How many layers `layers` lists: the most pipeline stages there can be."""
    return config.num_layers + 2


def layers(config: Config) -> "list[LayerSpec]":
    """UnitEmbed, LstmLayer x num_layers, Head."""
    from hierlm.nn.basic.head import Head
    from hierlm.nn.recurrent.lstm_layer import LstmLayer, UnitEmbed

    width = {"vocab_size": config.vocab_size, "hidden_dim": config.hidden_dim}
    return [
        partial(UnitEmbed, **width, dropout=config.dropout),
        *[partial(LstmLayer, hidden_dim=config.hidden_dim, dropout=config.dropout)] * config.num_layers,
        partial(Head, **width),
    ]


def num_parameters(config: Config) -> int:
    """Closed form: V*D at either end, 8(D^2 + D) per layer."""
    d = config.hidden_dim
    return 2 * config.vocab_size * d + config.num_layers * 8 * (d * d + d)
