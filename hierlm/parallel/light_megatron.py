"""megatron-core, imported without torch's compiler: first by whoever needs it, or it is too late.

megatron-core decorates the fused operations of its own transformer with `torch.compile`, which imports torch's compiler
at the first of them; the layers used here hold none. What is compiled on request (`train.compile`) imports it then.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


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


with _nothing_compiled(), warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of packages that its own transformer would like to have
    import megatron.core  # noqa: F401
