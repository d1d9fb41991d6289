"""Which kind of device a computation is for: that of its tensors, or, where they hold no data, the one of a plan."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_STANDS_FOR = ContextVar("stands_for", default="meta")
"""A variable of the context, which the recomputation inside a backward pass sees too."""


@contextmanager
def standing_for(device_type: str) -> Iterator[None]:
    """Inside, tensors without data are computed with the kernels of a `cpu`, taken to be this one, or of a `cuda`."""
    token = _STANDS_FOR.set(device_type)
    try:
        yield
    finally:
        _STANDS_FOR.reset(token)


def device_type(tensor: Tensor) -> str:
    """`cpu`, `cuda`, ..., or `meta` where nobody says what a tensor without data stands for."""
    return target_of(tensor.device)


def target_of(device: torch.device) -> str:
    """The same of tensors on `device`."""
    return _STANDS_FOR.get() if device.type == "meta" else device.type
