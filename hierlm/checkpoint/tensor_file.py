"""The one door to files of tensors, the engine's and our own: plain data and tensors come in, nothing runs.

No file of a checkpoint is unpickled (`plain_pickle`), here or by the engine, which is handed what this door gives
(docs/decisions/checkpoint-door.md). So a digest needs torch but not DeepSpeed.
"""

import ctypes
import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hierlm.checkpoint.archive import Archive, Stretch, open_archive
from hierlm.checkpoint.plain_pickle import NotPlainError, Numbers, Sealed, Strided
from hierlm.errors import UserError

__all__ = ["Sealed", "read_tensors"]

_NO_FILES_FAULT = ("peer", "onnection", "imed out", "out of memory", "gloo", "NCCL")
"""Words of a RuntimeError that torch raises for another reason while a checkpoint is taken up."""

_read_last: list[Path] = []


class WrongContentError(UserError):
    """A file of a checkpoint holds plain data, but not what belongs there."""

    is_of_one_rank = True  # each reads files of its own


@contextmanager
def content_that_fits(default: Path) -> Iterator[None]:
    """Inside, what cannot be made of a file's content is that file's fault: WrongContentError that names the last read.

    `default` is named when nothing was read yet.
    """
    _read_last[:] = [default]
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, AssertionError, RuntimeError) as error:
        said = f"{type(error).__name__}: {error}".partition("\n")[0]
        if isinstance(error, RuntimeError) and any(word in said for word in _NO_FILES_FAULT):
            raise
        raise WrongContentError(
            f"{_read_last[-1]}: it, or a file beside it, does not hold what hierlm saves ({said}); go on from another "
            "checkpoint"
        ) from error


_ALIGNMENT = 64
"""Of values in a file; a tensor of values that lie otherwise is copied."""


Mapped = list[Any]
"""Files that are mapped, whole, as torch's storages."""


def read_tensors(path: Path, *, is_mapped: bool = True, mapped: Mapped | None = None) -> Any:
    """What `torch.save` put into a file; its tensors are on the CPU and read from disk as they are touched.

    With `is_mapped` false they are read at once and outlive the file; `mapped` takes up what is mapped, for
    `give_back`. Objects of the engine's classes come as `Sealed` data. UserError, in one line, for a file that holds
    anything else; OSError where there is none.
    """
    _read_last[:] = [path]
    archive = open_archive(path)
    return archive.content(_Values(archive, is_mapped=is_mapped, mapped=[] if mapped is None else mapped).tensor)


def read_mapping(path: Path, *, is_mapped: bool = True, mapped: Mapped | None = None) -> dict[str, Any]:
    """The same of a file that holds a mapping; UserError for any other."""
    content = read_tensors(path, is_mapped=is_mapped, mapped=mapped)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no mapping: it is not what hierlm saved; go on from another checkpoint")
    return content


def give_back(mapped: Iterable[Any]) -> None:
    """Let go of the memory that tensors read of these files take; touched again, they are read again.

    Only of mapped files, of which nothing was written: anything else would be lost.
    """
    for storage in mapped:
        _libc().madvise(ctypes.c_void_p(storage.data_ptr()), ctypes.c_size_t(storage.nbytes()), mmap.MADV_DONTNEED)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)


class _Values:
    """The values of an archive's tensors; those that shared memory when they were saved share it again."""

    def __init__(self, archive: Archive, *, is_mapped: bool, mapped: Mapped) -> None:
        self._archive, self._is_mapped, self._mappings = archive, is_mapped, mapped
        self._whole: Any = None
        self._known: dict[Numbers, Any] = {}

    def tensor(self, described: Strided) -> Tensor:
        numbers = described.numbers
        if numbers not in self._known:
            self._known[numbers] = self._storage(self._archive.stretch_of(numbers))
        empty = torch.empty(0, dtype=getattr(torch, numbers.kind))
        if 0 in described.shape:
            return empty.reshape(described.shape)
        try:
            return empty.set_(self._known[numbers], described.offset, described.shape, described.strides)
        except RuntimeError:
            raise NotPlainError("describes a tensor that cannot be") from None

    def _storage(self, stretch: Stretch) -> Any:
        if not stretch.size:
            return torch.UntypedStorage(0)
        if self._is_mapped and stretch.start % _ALIGNMENT == 0:
            return self._mapped()[stretch.start : stretch.start + stretch.size]
        held = bytearray(stretch.size)
        with self._archive.path.open("rb") as file:
            file.seek(stretch.start)
            if file.readinto(held) != stretch.size:
                raise NotPlainError("ends before its values")
        return torch.frombuffer(held, dtype=torch.uint8).untyped_storage()

    def _mapped(self) -> Any:
        if self._whole is None:
            path = self._archive.path
            self._whole = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
            self._mappings.append(self._whole)
        return self._whole
