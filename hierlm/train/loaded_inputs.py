"""What the loader hands over beside the tokens, as far as an architecture reads it."""

from torch import Tensor

from hierlm.errors import UserError
from hierlm.models.assembly import input_specs
from hierlm.models.config import ModelConfig
from hierlm.nn.inputs import DOCUMENTS, Inputs, documents_from_starts, without_tokens


def wants_documents(config: ModelConfig) -> bool:
    """Whether the loader is to say where documents begin."""
    return DOCUMENTS in input_specs(config)


def require_inputs(config: ModelConfig) -> None:
    """UserError where the architecture reads what neither the loader nor a rule of its own can make."""
    unknown = [name for name, spec in input_specs(config).items() if spec.rule is None and name != DOCUMENTS]
    if unknown:
        raise UserError(
            f"model.arch: {config.arch} reads {', '.join(unknown)} beside the tokens, which no data set has; allowed: "
            f"{DOCUMENTS}, or inputs with a rule that makes them from the tokens"
        )


def inputs_of(document_starts: Tensor | None) -> Inputs:
    """`document_starts` bool [n, T], where they were asked for."""
    found = {} if document_starts is None else {DOCUMENTS: documents_from_starts(document_starts)}
    return without_tokens(found)
