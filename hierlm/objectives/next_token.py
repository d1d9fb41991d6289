"""Every token foretells the one behind it."""

from typing import TYPE_CHECKING, Any, Literal

from hierlm import metric_names
from hierlm.bits import bits, perplexity
from hierlm.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipeline.read.loader import Rows
    from hierlm.objectives.batch import Batch, Source

INPUTS: dict[str, Any] = {}
SEES = "past"
HEADLINE = metric_names.LOSS
LOWER_IS_BETTER = True


class Config(ObjectiveConfig):
    """Nothing to choose."""

    name: Literal["next_token"] = "next_token"


def batch(rows: "Rows", config: Config, *, seed: int) -> "Batch":
    """Tokens, and as targets the same a token later; of a row that is not full, none past its end."""
    from data_pipeline.read.loader import next_tokens
    from hierlm.nn.inputs import DOCUMENTS, documents_from_starts, with_tokens
    from hierlm.objectives.batch import Batch

    tokens, targets = next_tokens(rows)
    begins = rows.document_starts
    inputs = {} if begins is None else {DOCUMENTS: documents_from_starts(begins)}
    return Batch(with_tokens(tokens, inputs), targets, starts=rows.starts)


def units(loss: float, of: "Source") -> dict[str, float]:
    """Nats per token as bits per source byte (and dimension)."""
    return bits(loss, tokens_per_byte=of.tokens_per_byte, kind=of.kind)


class Totals:
    """Nats, and the tokens that were foretold."""

    def __init__(self) -> None:
        import torch

        self.sums = torch.zeros(2, dtype=torch.float64)

    def add(self, nats: "Tensor", batch: "Batch") -> None:
        """nats fp32 [n, T], 0 where nothing was to be foretold."""
        self.sums[0] += nats.double().sum().cpu()
        self.sums[1] += (batch.targets >= 0).sum().cpu()

    @staticmethod
    def metrics(sums: "Tensor", of: "Source") -> dict[str, float | int]:
        """loss in nats per token, perplexity per token, bits per source byte (and dimension), tokens scored."""
        nats, num_tokens = sums.tolist()
        loss = nats / num_tokens
        return {
            metric_names.LOSS: loss,
            metric_names.PERPLEXITY: perplexity(loss),
            **units(loss, of),
            metric_names.TOKENS: int(num_tokens),
        }
