"""A transformer for tests whose middle layer reports everything a layer can, and whose last one reads documents."""

from functools import partial
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from hierlm.models.config import BlockConfig
from hierlm.models.transformer import TENSOR_PLAN as OF_TRANSFORMERS
from hierlm.nn.input_spec import InputSpec

if TYPE_CHECKING:
    from torch import Tensor

    from hierlm.nn.layer import LayerSpec

PAPER = "none"
NEWLINE = 10
TENSOR_PLAN = {**OF_TRANSFORMERS, r"layers\.\d+\.direction": "replicate"}


def by_newlines(tokens: "Tensor") -> "Tensor":
    from hierlm.nn.inputs import documents_after

    return documents_after([NEWLINE])(tokens)


INPUTS = {"documents": InputSpec(per="token", rule=by_newlines)}


class Config(BlockConfig):
    """Sizes, and what is left out to have something to compare with."""

    num_layers: PositiveInt = 1  # on either side of the layer that reports
    probe_weight: float = 0.5
    reads_documents: bool = True


def list_length(config: Config) -> int:
    return 2 * config.num_layers + 4


def layers(config: Config) -> "list[LayerSpec]":
    """Embed, Block x n, Probe, Block x n, DocumentReader, Head."""
    from hierlm.nn.basic.block import Block
    from hierlm.nn.basic.embedding import Embed
    from hierlm.nn.basic.head import Head
    from hierlm.nn.shape import BlockShape
    from tests.distributed.architectures._layers import DocumentReader, Probe

    shape = BlockShape.of(config, positions="rotary", num_residual_writes=4)
    width = {"vocab_size": config.vocab_size, "hidden_dim": config.hidden_dim}
    return [
        partial(Embed, **width, dropout=config.dropout, sinusoidal=False),
        *[partial(Block, shape=shape)] * config.num_layers,
        partial(Probe, hidden_dim=config.hidden_dim, weight=config.probe_weight),
        *[partial(Block, shape=shape)] * config.num_layers,
        partial(DocumentReader, is_blind=not config.reads_documents),
        partial(Head, **width),
    ]
