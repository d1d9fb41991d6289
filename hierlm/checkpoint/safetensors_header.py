"""What a safetensors file says of its tensors, believed only as far as the file bears it out. Torch-free.

Format: u64 length of the header, JSON header, raw little-endian values that fill the rest of the file without gaps
(github.com/huggingface/safetensors). The files are other people's: every number is checked before anything is made of
it, and nothing but the header is read.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hierlm.errors import UserError

ITEM_BYTES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2},
    **{"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8},
}
"""By the format's names of types."""

MAX_HEADER_BYTES = 100_000_000
"""As the format's own library has it."""

_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_MAX_DIMENSIONS, _MAX_COUNT = 16, 1 << 60


@dataclass(frozen=True)
class Stored:
    """Where the values of a tensor lie."""

    file: Path
    kind: str  # a name of ITEM_BYTES
    shape: tuple[int, ...]
    start: int  # in the file
    size: int  # in bytes


class _FaultError(ValueError):
    """What is wrong with a header, in a few words."""


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of a file, by name. UserError, in one line, for one that is not what it says it is."""
    try:
        return _tensors(path)
    except _FaultError as fault:
        why = str(fault)
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    raise UserError(f"{path}: {why}; nothing of it was taken: copy it again from where it was made")


def shown(name: str) -> str:
    """A name out of somebody else's file, safe to print: control characters and the like are escaped."""
    return name if name.isprintable() and name.isascii() else json.dumps(name)


def _tensors(path: Path) -> dict[str, Stored]:
    with path.open("rb") as file:
        total = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if total < _LENGTH_BYTES or not 2 <= length <= min(MAX_HEADER_BYTES, total - _LENGTH_BYTES):
            raise _FaultError("is no safetensors file, or was cut short (its header does not fit into it)")
        text = file.read(length)
    first = _LENGTH_BYTES + length
    header = _parsed(text)
    found = {
        name: _stored(path, name, entry, first=first, total=total)
        for name, entry in header.items()
        if name != _METADATA
    }
    _require_no_gaps(found.values(), first=first, total=total)
    return found


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, _FaultError) else f"its header is not JSON, {type(error).__name__}"
        raise _FaultError(f"is no safetensors file ({why})") from None
    if not isinstance(header, dict):
        raise _FaultError("is no safetensors file (its header is no object)")
    return header


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _FaultError("a name stands in its header twice")
    return found


def _stored(path: Path, name: str, entry: object, *, first: int, total: int) -> Stored:
    where = f"says of {shown(name)[:80]}"
    if not isinstance(entry, Mapping) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        raise _FaultError(f"{where} not what the format asks for")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in ITEM_BYTES:
        raise _FaultError(f"{where} a type that is not known here, {shown(str(kind))[:20]}")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS or not _are_counts(offsets) or len(offsets) != 2:
        raise _FaultError(f"{where} a shape or a place that cannot be")
    begin, end = offsets
    size = math.prod(shape) * ITEM_BYTES[kind]
    if end - begin != size or first + end > total:
        raise _FaultError(f"{where} a place that its shape {shape} does not fill, or that is not in the file")
    return Stored(path, kind, tuple(shape), first + begin, size)


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= _MAX_COUNT for value in values)


def _require_no_gaps(found: Iterable[Stored], *, first: int, total: int) -> None:
    place = first
    for each in sorted(found, key=lambda stored: (stored.start, stored.size)):
        if each.start != place:
            raise _FaultError("places its tensors over each other or with gaps between them")
        place += each.size
    if place != total:
        raise _FaultError("goes on behind its last tensor")
