"""Importing deepspeed and megatron-core without what they import along and is never used here.

Measured: 6.6 s of processor time at the start of every rank become 3.5 s.

DeepSpeed's autotuner, which has no place in a run, imports mlflow where it is installed. megatron-core decorates the
fused operations of its own transformer with `torch.compile`, which imports torch's compiler at the first of them; the
layers used here hold none. What is compiled on request (`train.compile`) imports the compiler then.

It helps where nobody has imported them before: `names.py`, the only other file that does, begins with it.
DeepSpeed is told its accelerator, which it would else guess aloud.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Inside, the package counts as not installed, unless somebody has imported it."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Inside, `torch.compile` gives back what it is given."""
    original = torch.compile
    torch.compile = _as_it_is  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = original


def _as_it_is(function: Callable[..., Any] | None = None, **_: Any) -> Callable[..., Any]:
    return (lambda decorated: decorated) if function is None else function


os.environ.setdefault("DS_ACCELERATOR", "cuda" if os.path.exists("/dev/nvidiactl") else "cpu")
with _without("mlflow"):
    import deepspeed  # noqa: F401 - found by name from here on
with _nothing_compiled():
    import megatron.core  # noqa: F401
