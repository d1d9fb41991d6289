"""A tensor written as torch.save writes one, block by block: it is never whole in memory.

The archive of torch.save (`hierlm.checkpoint.archive`): the values lie as they are behind the pickle that describes
them, so a writer that knows the shape can pour them in.
"""

import io
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

_FOLDER = "archive/"
_VERSION = b"3\n"
"""Of the archive's form, as torch.save writes it."""
_ALIGNMENT = 64
"""Of values in the file: so far apart they can be mapped."""
_PADDING = b"FB"
"""The header field by which torch.save fills up too."""
_FIELD_BYTES, _HEADER_BYTES, _LARGE_FILE_FIELD_BYTES = 4, 30, 20


def write_tensor(
    sink: Any, blocks: Iterable[Tensor], *, name: str, shape: tuple[int, ...], rest: Mapping[str, Any]
) -> None:
    """What `torch.save({name: tensor, **rest}, sink)` would write of the fp32 tensor that the blocks are, end to end.

    `sink` has `write` and `flush`. ValueError if the blocks are not as many values as the shape has.
    """
    count = math.prod(shape)
    described = io.BytesIO()
    _Describer(described, protocol=2).dump({name: _Described(shape), **rest})
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(_entry("data.pkl"), described.getvalue())
        archive.writestr(_entry("byteorder"), sys.byteorder.encode())
        with archive.open(_aligned(archive, "data/0"), "w", force_zip64=True) as values:
            written = sum(_poured(block, values) for block in blocks)
        archive.writestr(_entry("version"), _VERSION)
    if written != count:
        raise ValueError(f"{written} values for shape {list(shape)}")


def block_bytes(block: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, without a copy."""
    array: Any = block.numpy()
    return memoryview(array.reshape(-1)).cast("B")


def _poured(block: Tensor, values: Any) -> int:
    assert block.dtype == torch.float32, block.dtype
    values.write(block_bytes(block.contiguous()))
    return block.numel()


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(_FOLDER + name)  # of 1980: the same content gives the same file


def _aligned(archive: Any, name: str) -> zipfile.ZipInfo:
    """Its header made as long as it takes for the values to begin at a multiple of `_ALIGNMENT`."""
    entry = _entry(name)
    begins = archive.fp.tell() + _HEADER_BYTES + len(entry.filename) + _LARGE_FILE_FIELD_BYTES + _FIELD_BYTES
    missing = -begins % _ALIGNMENT
    entry.extra = _PADDING + missing.to_bytes(2, "little") + b"Z" * missing
    return entry


class _Described:
    """Stands for the tensor in the pickle."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def __reduce__(self) -> tuple[Any, ...]:
        strides = torch.empty(self._shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (
            _Values(math.prod(self._shape)),
            0,
            self._shape,
            strides,
            False,
            OrderedDict(),
        )


class _Values:
    """Stands for its values."""

    def __init__(self, count: int) -> None:
        self.count = count


class _Describer(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", thing.count) if isinstance(thing, _Values) else None
