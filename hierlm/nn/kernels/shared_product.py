"""One matrix times each of many, by oneDNN where `hierlm.nn.kernels.linear` prefers it.

Shapes: N products, of [m, j] and [j, d].
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hierlm.nn.kernels.linear import is_faster, times


def shared_product(shared: Tensor, each: Tensor) -> Tensor:
    """[m, j] times each of [N, j, d] -> [N, m, d].

    As `matmul`, except that the gradient of the shared side is summed product by product: its N addends, each as
    large as [m, j], never exist.
    """
    products: Tensor = _SharedProduct.apply(shared, each)
    return products


class _SharedProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: Tensor, each: Tensor) -> Tensor:
        ctx.save_for_backward(shared, each)
        return _times_each(shared, each)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        shared, each = ctx.saved_tensors
        needs_shared, needs_each = ctx.needs_input_grad
        return (
            _of_shared(gradient, each) if needs_shared else None,
            _times_each(shared.t(), gradient) if needs_each else None,
        )


def _times_each(shared: Tensor, each: Tensor) -> Tensor:
    """[m, j], [N, j, d] -> [N, m, d]."""
    if is_faster(shared, each[0].t()):
        dense = shared.contiguous()  # once for all
        return torch.stack([times(dense, one.t()) for one in each])
    return torch.bmm(shared.expand(len(each), -1, -1), each)


def _of_shared(gradient: Tensor, each: Tensor) -> Tensor:
    """[N, m, d], [N, j, d] -> [m, j], the sum of the products."""
    if is_faster(gradient[0], each[0]):
        return times(*(x.transpose(0, 1).flatten(1) for x in (gradient, each)))
    sums = gradient.new_zeros(gradient.shape[1], each.shape[1])
    if sums.is_meta:  # a plan asks for sizes, and here there may be a thousand products
        return sums
    for one, other in zip(gradient.unbind(), each.mT.unbind(), strict=True):
        sums.addmm_(one, other)
    return sums
