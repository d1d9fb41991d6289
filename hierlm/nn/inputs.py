"""What a batch says of its tokens and rows, by name: made, checked, split and moved here and nowhere else.

Every process of every pipeline stage reads the whole batch, so inputs never travel between stages. The mapping is
read-only: layers share it, and DeepSpeed's hooks of ZeRO stage 3 would write into a plain dict.

Shapes: B rows, T tokens, W the width of an input.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from hierlm.errors import UserError
from hierlm.nn.input_spec import InputSpec

Inputs = Mapping[str, Tensor]
InputSpecs = Mapping[str, InputSpec]

TOKENS = "tokens"
"""int64 [B, T]; in every batch."""
DOCUMENTS = "documents"
"""int64 [B, T]: which of the documents of its row a token belongs to, rising from the left; only equality counts."""

NO_INPUTS: Inputs = MappingProxyType({})
NO_SPECS: InputSpecs = MappingProxyType({})


def with_tokens(tokens: Tensor, others: Inputs = NO_INPUTS) -> Inputs:
    """Inputs as they are given, read-only."""
    return MappingProxyType({**others, TOKENS: tokens})


def without_tokens(inputs: Inputs) -> Inputs:
    """What is said beside the tokens."""
    return MappingProxyType({name: tensor for name, tensor in inputs.items() if name != TOKENS})


def completed(specs: InputSpecs, tokens: Tensor, given: Inputs = NO_INPUTS) -> Inputs:
    """The tokens, and every declared input: as given, else by its rule.

    UserError with every input that is not declared, cannot be made, or has another shape or type than declared.
    """
    given = without_tokens(given)
    made = {name: spec.rule(tokens) for name, spec in specs.items() if name not in given and spec.rule is not None}
    found = {**given, **made}
    problems = [problem for name in {**specs, **given} if (problem := _problem(name, specs, tokens, found))]
    if problems:
        raise UserError(problems)
    return with_tokens(tokens, found)


def neutral(specs: InputSpecs, tokens: Tensor) -> Inputs:
    """The tokens, and of every declared input that says nothing: for made-up rows."""
    others = {
        name: torch.full(_shape(spec, tokens), spec.neutral, dtype=_dtype(spec), device=tokens.device)
        for name, spec in specs.items()
    }
    return with_tokens(tokens, others)


def split_rows(inputs: Inputs, num_rows: int) -> list[Inputs]:
    """Parts of `num_rows` rows each, the last one perhaps smaller."""
    parts = {name: tensor.split(num_rows) for name, tensor in inputs.items()}
    num_parts = len(parts[TOKENS])
    return [MappingProxyType({name: each[index] for name, each in parts.items()}) for index in range(num_parts)]


def moved(inputs: Inputs, device: torch.device) -> Inputs:
    """All of them on a device."""
    return MappingProxyType({name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()})


def last_tokens(specs: InputSpecs, inputs: Inputs, num_tokens: int) -> Inputs:
    """The same rows at their last tokens: inputs of rows stay whole."""
    of_tokens = {TOKENS, *(name for name, spec in specs.items() if spec.per == "token")}
    cut = {name: t[:, -num_tokens:] if name in of_tokens else t for name, t in inputs.items()}
    return MappingProxyType(cut)


def documents_from_starts(starts: Tensor) -> Tensor:
    """bool [B, T], true where a document begins -> `DOCUMENTS`."""
    return starts.long().cumsum(dim=1)


def documents_after(separators: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The rule that makes `DOCUMENTS` of tokens, if each document ends with one of these tokens."""

    def numbers(tokens: Tensor) -> Tensor:
        ends = torch.isin(tokens, torch.tensor(separators, device=tokens.device)).long()
        return ends.cumsum(dim=1) - ends  # the separator itself still belongs to its document

    return numbers


def _problem(name: str, specs: InputSpecs, tokens: Tensor, found: Inputs) -> str | None:
    if name not in specs:
        return f"inputs.{name}: this model does not read it; it reads {', '.join((TOKENS, *specs))}"
    if name not in found:
        return f"inputs.{name}: missing, and no rule makes it from the tokens; hand it over with the tokens"
    spec, tensor = specs[name], found[name]
    shape, dtype = _shape(spec, tokens), _dtype(spec)
    if tensor.shape != torch.Size(shape) or tensor.dtype != dtype:
        return f"inputs.{name}: given {tensor.dtype} {list(tensor.shape)}, allowed: {dtype} {shape}"
    return None


def _shape(spec: InputSpec, tokens: Tensor) -> list[int]:
    rows = tokens.shape if spec.per == "token" else tokens.shape[:1]
    return [*rows, *([] if spec.width is None else [spec.width])]


def _dtype(spec: InputSpec) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return dtype
