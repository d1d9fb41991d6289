"""Where a process reads what a device holds, and so waits for it: on a CPU the same calls are made."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READ = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
}
"""What gives numbers to Python, or a tensor whose shape depends on numbers."""
BEHIND_DISPATCH = ("tolist", "numpy", "cpu")
"""Methods of a tensor that on a CPU reach no dispatcher."""


class _Dispatched(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operator.name().partition(".")[0] in READ:
            self._found.append(f"{operator.name()} {_caller()}")
        return operator(*args, **(kwargs or {}))


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """Inside, each read adds a line: what was called, and from where."""
    found: list[str] = []
    with ExitStack() as stack:
        for method in BEHIND_DISPATCH:
            stack.enter_context(patch.object(torch.Tensor, method, _noting(getattr(torch.Tensor, method), found)))
        stack.enter_context(_Dispatched(found))
        yield found


def _noting(own: Callable[..., Any], found: list[str]) -> Callable[..., Any]:
    @wraps(own)
    def call(*of: Any, **named: Any) -> Any:
        found.append(f"{own.__name__} {_caller()}")
        return own(*of, **named)

    return call


def _caller() -> str:
    """The last calls outside of torch and of this file, innermost first."""
    frames = [f for f in reversed(traceback.extract_stack()) if "/torch/" not in f.filename and f.filename != __file__]
    return " < ".join(f"{'/'.join(f.filename.rsplit('/', 2)[-2:])}:{f.lineno} {f.name}" for f in frames[:4])
