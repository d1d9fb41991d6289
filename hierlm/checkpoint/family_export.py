"""A checkpoint as a published family has it: its names, joined and transposed as it keeps them, and its config.json."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from hierlm import yaml12
from hierlm.checkpoint.canonical import CanonicalState, read_canonical, require_known_names
from hierlm.checkpoint.export import WEIGHTS, check_output, model_of, write_safetensors
from hierlm.errors import UserError
from hierlm.interop import family_named, names
from hierlm.interop.family import parts, their_config
from hierlm.models.assembly import canonical_names

CONFIG = "config.json"


class Joined(NamedTuple):
    """A tensor of theirs: parameters of ours one below the other, or beside each other where it is transposed."""

    ours: Sequence[str]
    is_transposed: bool


def export_as(family: str, engine_dir: Path, *, run_config: Path, output: Path) -> dict[str, int]:
    """Write what transformers loads; parameter and byte counts.

    UserError where the family is not known or cannot represent the model, naming each field, and as `export`.
    """
    known = family_named(family)
    if known is None:
        raise UserError(f"--family: given {family!a}, allowed: {', '.join(names())}")
    model = model_of(yaml12.load(run_config.read_text(encoding="utf-8")))
    part = model.model_dump(mode="json")
    config = their_config(known, {**part, "num_kv_heads": part.get("num_kv_heads") or part.get("num_heads")})
    state = read_canonical(engine_dir)
    require_known_names(state.names, canonical_names(model), where=engine_dir.parent)
    tensors = _tensors(known, state.names, num_layers=part["num_layers"])
    check_output(output, names=(WEIGHTS, CONFIG))
    try:
        output.mkdir(parents=True, exist_ok=True)
        shapes = {name: _shape(state, joined) for name, joined in tensors.items()}
        count = write_safetensors(output / WEIGHTS, shapes, lambda name: _values(state, tensors[name]))
        (output / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written ({error.strerror})") from None
    return {"parameters": count, "bytes": (output / WEIGHTS).stat().st_size}


def _tensors(family: ModuleType, held: Sequence[str], *, num_layers: int) -> Mapping[str, Joined]:
    """What the family's tensors are made of; every parameter is in one of them."""
    found = parts(family, num_layers=num_layers, prefix=family.PREFIXES[0])
    if without := sorted(set(held) - found.keys()):
        raise UserError(f"--family: {without[0]} and {len(without) - 1} more have no name in {family.__name__}")
    tensors: dict[str, list[str]] = {}
    for name, part in found.items():  # the parts of a tensor in their order
        if name in held:
            tensors.setdefault(part.theirs, []).append(name)
    return {name: Joined(ours, found[ours[0]].is_transposed) for name, ours in tensors.items()}


def _shape(state: CanonicalState, joined: Joined) -> tuple[int, ...]:
    first, *more = [state.shape(name) for name in joined.ours]
    shape = (sum(each[0] for each in (first, *more)), *first[1:])
    return shape[::-1] if joined.is_transposed else shape


def _values(state: CanonicalState, joined: Joined) -> Iterator[Tensor]:
    """One tensor at a time is in memory where it is joined or transposed."""
    if not joined.is_transposed:
        for name in joined.ours:
            yield from state.blocks(name, "fp32")
        return
    yield torch.cat([state.tensor(name, "fp32") for name in joined.ours]).t()
