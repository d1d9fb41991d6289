"""The gradients of a step between its last backward pass and its update, as each ZeRO stage holds them."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierlm.parallel.gradient_norm import counts_here, own_parts, square
from hierlm.parallel.groups import Groups
from hierlm.parallel.seams.engine import Engine
from hierlm.parallel.seams.optimizers import Bf16Optimizer, Stage3Optimizer, Stage12Optimizer, ZeroOptimizer
from hierlm.parallel.seams.parameters import is_padding

_NOT_GIVEN = object()
_LAYER = re.compile(r"layers\.(\d+)\.")


class Gradients:
    """Summed over micro-batches and data-parallel ranks, before clipping. Every rank asks, or none does."""

    def __init__(self, engine: Engine, groups: Groups) -> None:
        self._engine, self._groups = engine, groups

    def layer_norms(self, num_layers: int) -> Tensor:
        """The norm of each layer's gradient, fp32 [num_layers], equal on all ranks; 0 for layers without weights.

        Weights that several ranks hold are counted once, as in the norm of the whole; tied ones at their owner.
        """
        layer_of = {id(p): int(_LAYER.match(name)[1]) for name, p in self._engine.module.named_parameters()}  # type: ignore[index]
        squares = torch.zeros(num_layers, device=self._engine.device)
        for parameter, gradient in self.held():
            if counts_here(parameter, self._groups):
                squares[layer_of[id(parameter)]] += square(gradient).to(squares.device)
        for group in (self._groups.data, self._groups.model) if self._is_partitioned else (self._groups.model,):
            dist.all_reduce(squares, group=group)
        return squares.sqrt()

    @property
    def _is_partitioned(self) -> bool:
        """Whether data-parallel ranks hold different parts: else each holds the whole."""
        return isinstance(self._engine.optimizer, ZeroOptimizer)

    def held(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        """What this rank holds: whole gradients, or its partition's parts of them."""
        optimizer = self._engine.optimizer
        if isinstance(optimizer, Bf16Optimizer):
            for parameters, part in zip(optimizer.groups, optimizer.gradient_parts, strict=True):
                yield from own_parts(parameters, part)
        elif isinstance(optimizer, Stage12Optimizer | Stage3Optimizer):
            parts = optimizer.groups if isinstance(optimizer, Stage3Optimizer) else optimizer.params_in_partition
            for index, parameters in enumerate(parts):
                held = [gradient for gradient in optimizer.averaged_gradients[index] if not is_padding(gradient)]
                yield from zip(parameters, held, strict=False)  # padding may be left at the end
        else:
            yield from ((p, p.grad) for p in self._engine.module.parameters() if p.grad is not None)


def look_before_update(engine: Engine, look: Callable[[], None]) -> None:
    """Let DeepSpeed's engine, with a pipeline or without, call `look` once a step where its gradients are whole.

    Both kinds update where a step is taken, which begins with clipping; a step that accumulates does not come by.
    """
    take_step = engine.take_step

    def look_and_take(lr_kwargs: Any, block_eigenvalue: Any = _NOT_GIVEN) -> Any:  # 0.19.3 gives both
        look()
        return take_step(lr_kwargs) if block_eigenvalue is _NOT_GIVEN else take_step(lr_kwargs, block_eigenvalue)

    engine.take_step = look_and_take
