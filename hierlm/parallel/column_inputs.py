"""One sum of the input's gradient for all column slices that read one input, beside the weights' gradients.

Each rank's slices give a part of the gradient of what they read. Queries, keys and values read the same, so their parts
are added up here and summed over ranks once (Megatron-LM, 1909.08053, section 3: two sums a block each way). The sum
is on its way while the gradients of the weights are made, which nobody waits for: so a weight's gradient is made where
the input's is sent off, not where the product's is. On a GPU both run at once only if the kernels are started in this
order, which CUDA_DEVICE_MAX_CONNECTIONS=1 sees to: whoever starts the processes sets it (`launcher.job`).

What slices read in common is found where it happens: by the tensor that they are given.

Shapes: ... any, D input width, N output width of a slice.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.parallel.seams.parameters import is_partitioned


class Door(Protocol):
    """Between a tensor and those slices of all ranks that read it."""

    def enter(self, x: Tensor) -> Tensor:
        """What the slices read of it."""

    def kept(self, x: Tensor, entered: Tensor) -> Tensor:
        """What is kept for the backward pass, one of the two."""

    def entered_again(self, kept: Tensor) -> Tensor:
        """What `enter` gave, in the backward pass."""

    def leave(self, gradient: Tensor) -> Callable[[], Tensor]:
        """Send off this rank's part of the gradient of what `enter` gave; the call waits for that of `x`."""


class EqualInputs:
    """The door where every rank holds the same input."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def enter(self, x: Tensor) -> Tensor:
        return x

    def kept(self, x: Tensor, entered: Tensor) -> Tensor:
        return x

    def entered_again(self, kept: Tensor) -> Tensor:
        return kept

    def leave(self, gradient: Tensor) -> Callable[[], Tensor]:
        total = gradient.contiguous()  # made by the products behind the door, which nobody else holds
        work = dist.all_reduce(total, group=self._group, async_op=True)

        def arrived() -> Tensor:
            work.wait()
            return total

        return arrived


class Reading:
    """An input behind its door, and the weights as slices that read it take them."""

    def __init__(self, x: Tensor, door: Door, weights: Sequence[nn.Parameter]) -> None:
        own = [weight for weight in weights if weight.requires_grad and not is_partitioned(weight)]
        self._gradients: list[tuple[int, Tensor]] = []
        self.x, *taken = _Entrance.apply(x, door, self._gradients, *own)
        self._taken = {id(weight): (place, other) for place, (weight, other) in enumerate(zip(own, taken, strict=True))}

    def product(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product of what is read, [..., N]."""
        if id(weight) not in self._taken:  # frozen; or partitioned, and then it is whole only around its own layer
            return F.linear(self.x, weight, bias)
        place, taken = self._taken[id(weight)]
        product: Tensor = _Product.apply(self.x, taken, bias, (self._gradients, place))
        return product


class ColumnInputs:
    """What the column slices of one layer of the list have read in the pass that is running."""

    def __init__(self, layer: nn.Module, group: dist.ProcessGroup) -> None:
        self._equal = EqualInputs(group)
        self._read: list[tuple[Tensor, Reading]] = []
        self._is_inside = False
        layer.register_forward_pre_hook(self._forget)
        layer.register_forward_hook(self._forget, always_call=True)

    def enter(self, x: Tensor, door: Door, weights: Sequence[nn.Parameter]) -> Tensor:
        """Let `x` in by a door of its own, for slices with these weights; what they are to be given.

        Whatever else they read until the next call of the layer is made of it, and needs no door: stage 3 of ZeRO hands
        a module another tensor than it was called with.
        """
        self._is_inside = True
        reading = Reading(x, door, weights)
        self._read.append((reading.x, reading))
        return reading.x

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, beside: Sequence[nn.Parameter]) -> Tensor:
        """x [..., D] weight^T + bias, [..., N]; `beside`: all weights that may read the same."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            return F.linear(x, weight, bias)
        for known, reading in self._read:
            if x is known:
                return reading.product(weight, bias)
        if self._is_inside:
            return F.linear(x, weight, bias)
        reading = Reading(x, self._equal, beside)
        self._read.append((x, reading))
        return reading.product(weight, bias)

    def enter_with(self, module: nn.Module, weights: Sequence[nn.Parameter]) -> None:
        """From now on what `module` is called with first is let in before it: whatever its slices read is made of that.

        So segment and memory, joined for the keys, cost no sum beside that of the segment, which the queries read.
        """

        def enter(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
            x, *others = given
            self._is_inside = torch.is_grad_enabled() and x.requires_grad
            return (self.enter(x, self._equal, weights), *others) if self._is_inside else given

        def leave(*_: Any) -> None:
            self._is_inside = False

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, always_call=True)

    def _forget(self, *_: Any) -> None:
        self._read.clear()
        self._is_inside = False


class _Entrance(torch.autograd.Function):
    """The input and weights as they are; backward the sum of the input's gradient, and the gradients of the weights."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, door: Door, gradients: list[tuple[int, Tensor]], *weights: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.door, ctx.gradients = door, gradients
        ctx.set_materialize_grads(False)
        entered = door.enter(x)
        ctx.save_for_backward(door.kept(x, entered))
        return (entered, *weights)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *direct: Tensor | None) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        assert gradient is not None
        entered = ctx.door.entered_again(kept).flatten(0, -2) if ctx.gradients else kept
        arrived = ctx.door.leave(gradient)
        found = list(direct)
        for place, of_product in ctx.gradients:
            of_weight = of_product.flatten(0, -2).t().matmul(entered)
            found[place] = of_weight if (before := found[place]) is None else before + of_weight
        ctx.gradients.clear()
        return arrived(), None, None, *found


class _Product(torch.autograd.Function):
    """x weight^T + bias; the gradient of the weight is left to the entrance."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, left_to: tuple[list[tuple[int, Tensor]], int]
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.gradients, ctx.place = left_to
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        ctx.gradients.append((ctx.place, gradient))
        of_bias = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        return gradient.matmul(weight), None, of_bias, None
