"""Tensors of another's model under our names: transposed and taken apart as they are read, block by block."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from hierlm.checkpoint.safetensors_header import shown
from hierlm.checkpoint.weights import Weights, as_matrix
from hierlm.errors import UserError
from hierlm.interop import family_named
from hierlm.interop.family import Part, different_fields, is_left, model_part, parts, prefix_of


class AdaptedWeights:
    """Parameters here that `parts` finds in `weights`; tensors that are part of none keep their names."""

    def __init__(self, weights: Weights, parts: Mapping[str, Part], *, left: frozenset[str] = frozenset()) -> None:
        """`left` are tensors that are known to hold no weight. UserError where one cannot be taken apart."""
        self._weights = weights
        there = weights.shapes
        self._parts = {name: part for name, part in parts.items() if part.theirs in there}
        used = {part.theirs for part in self._parts.values()}
        self.shapes = {name: _shape(there[part.theirs], part) for name, part in self._parts.items()}
        self.shapes |= {name: shape for name, shape in there.items() if name not in used and name not in left}

    def origin(self, name: str) -> str:
        """The tensor that a name is read from."""
        return self._parts[name].theirs if name in self._parts else name

    def block(self, name: str, *, rows: range, columns: range) -> Tensor:
        if name not in self._parts:
            return self._weights.block(name, rows=rows, columns=columns)
        part = self._parts[name]
        first = part.place * as_matrix(self.shapes[name])[0]
        below = range(first + rows.start, first + rows.stop)
        if part.is_transposed:
            return self._weights.block(part.theirs, rows=columns, columns=below).t()
        return self._weights.block(part.theirs, rows=below, columns=columns)


def _shape(theirs: tuple[int, ...], part: Part) -> tuple[int, ...]:
    turned = theirs[::-1] if part.is_transposed else theirs
    if not turned or (part.is_transposed and len(turned) != 2) or turned[0] % part.of:
        raise UserError(
            f"init_from: {shown(part.theirs)} {list(theirs)}: cannot be the {part.of} parameters of its family"
        )
    return (turned[0] // part.of, *turned[1:])


def adapted(
    weights: Weights,
    their_config: Mapping[str, Any],
    *,
    here: Mapping[str, Any],
    is_strict: bool,
    source: str,
    say: Callable[[str], None] = lambda line: None,
) -> Weights:
    """The weights of a family under our names; those of a family that is not known stay as they are.

    `here` is the `model:` part that begins with them. UserError with each field of the config there that cannot be
    represented, and each in which the model here computes something else; where it is not strict, those are said.
    """
    known = family_named(their_config.get("model_type"))
    if known is None:
        return weights
    part = model_part(known, their_config, where=f"init_from: {source}/config.json")
    different = different_fields(part, here)
    if different and is_strict:
        what = f"init_from: {source}: computes something else with these weights"
        mend = "; set these fields, or init_from.strict=false to begin with the weights all the same"
        raise UserError([*(f"{what}: {line}" for line in different[:-1]), f"{what}: {different[-1]}{mend}"])
    for line in different:
        say(f"warning: these weights were made for another computation: {line}")
    names, prefix = weights.shapes, prefix_of(known, weights.shapes)
    where = parts(known, num_layers=part["num_layers"], prefix=prefix)
    left = {name for name in names if is_left(known, name, prefix=prefix)}
    if part.get("tie_embeddings"):  # the head is the embedding, and stands in some files twice
        head = f"layers.{part['num_layers'] + 2}.projection.weight"
        left |= {where.pop(head).theirs} if head in where else set()
    return AdaptedWeights(weights, where, left=frozenset(left))
