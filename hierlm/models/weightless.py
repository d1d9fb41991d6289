"""Layers on a device where they hold nothing: shapes without values."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from hierlm.nn.layer import Layer, LayerSpec, build_layer

_DRAWS = frozenset(
    {
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        init.normal_,
        init.uniform_,
        init.trunc_normal_,
        init.kaiming_uniform_,
    }
)


class _NoDraws(TorchFunctionMode):
    """Initial weights on the meta device are not drawn: doing so imports a compiler, for seconds, and nothing else."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        given = kwargs or {}
        tensor = args[0] if args else given.get("tensor")  # torch.nn.init hands itself on by keyword
        if function in _DRAWS and tensor.is_meta:
            return tensor
        return function(*args, **given)


@contextmanager
def built_on(device: torch.device) -> Iterator[None]:
    """Inside, layers are built on `device`; constants made from numpy escape it, and need a second move."""
    with device, _NoDraws():
        yield


def alone(spec: LayerSpec, *, index: int, device: torch.device) -> Layer:
    """One layer of the list, alone in memory."""
    with built_on(device):
        return build_layer(spec, seed=0, index=index).to(device)
