"""megatron-core's sliced linear layers, as what ours derive from."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from hierlm.parallel.seams.handle import Handle, Replaced, overrides

Class = TypeVar("Class", bound=type)


NAMES_ALONE = "state dicts have the names of nn.Linear, and nothing else"


class RowSlice(Handle):
    """A slice of a weight's columns."""

    of = "megatron.core.tensor_parallel.layers.RowParallelLinear"

    get_extra_state = Replaced[Callable[..., Any]](NAMES_ALONE, takes=())
    set_extra_state = Replaced[Callable[..., Any]](NAMES_ALONE, takes=("state",))


class ColumnSlice(Handle):
    """A slice of a weight's rows."""

    of = "megatron.core.tensor_parallel.layers.ColumnParallelLinear"

    get_extra_state = Replaced[Callable[..., Any]](NAMES_ALONE, takes=())
    set_extra_state = Replaced[Callable[..., Any]](NAMES_ALONE, takes=("state",))


def without_extra_state(ours: Class) -> Class:
    """Keep megatron-core's `_extra_state` out of the class's state dicts."""
    ours.get_extra_state = nn.Module.get_extra_state  # type: ignore[attr-defined]
    ours.set_extra_state = nn.Module.set_extra_state  # type: ignore[attr-defined]
    return overrides(ColumnSlice)(ours)
