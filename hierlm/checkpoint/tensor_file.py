"""Read the engine's tensor files without the engine: tensors and plain data come back, its own objects stay sealed.

So a digest needs torch but not DeepSpeed, and a file cannot run code of its choosing when it is read.
"""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

_PLAIN_BUILTINS = frozenset({"set", "frozenset", "slice", "complex", "bytearray", "range"})
_TENSOR_PARTS = frozenset({"Tensor", "Size", "device", "dtype"})


class Sealed:
    """An object of a class we do not load: its attributes and arguments as data."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        known = (
            (module == "collections" and name == "OrderedDict")
            or (module == "builtins" and name in _PLAIN_BUILTINS)
            or (module == "torch" and (name in _TENSOR_PARTS or name.endswith("Storage")))
            or (module in ("torch._utils", "torch._tensor") and name.startswith("_rebuild_"))
            or module == "torch.storage"
        )
        return super().find_class(module, name) if known else Sealed


_PICKLE = SimpleNamespace(Unpickler=_Unpickler, __name__="hierlm.checkpoint.tensor_file")


def read_tensors(path: Path) -> dict[str, Any]:
    """The mapping a file holds; its tensors are on the CPU and read from disk as they are touched."""
    content: dict[str, Any] = torch.load(
        str(path), map_location="cpu", mmap=True, weights_only=False, pickle_module=_PICKLE
    )
    return content
