"""One matrix times each of many: the sum of what they give back, and what a plan of it costs."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hierlm.nn.kernels.shared_product import shared_product


class Counted(TorchDispatchMode):
    """How many operators were run."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += 1
        return function(*args, **(kwargs or {}))


def operators_there_and_back(num_products, *, device):
    shared = torch.zeros(5, 4, device=device, requires_grad=True)
    each = torch.zeros(num_products, 4, 3, device=device, requires_grad=True)
    with Counted() as counted:
        shared_product(shared, each).sum().backward()
    assert shared.grad.shape == shared.shape and each.grad.shape == each.shape
    return counted.number


def test_without_values_a_thousand_products_are_as_few_operators_as_two():
    assert operators_there_and_back(1000, device="meta") == operators_there_and_back(2, device="meta")
    assert operators_there_and_back(1000, device="cpu") > operators_there_and_back(2, device="cpu")


def test_it_is_matmul():
    generator = torch.Generator().manual_seed(3)
    shared = torch.randn(5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    each = torch.randn(7, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    weights = torch.randn(7, 5, 3, dtype=torch.float64, generator=generator)
    found, expected = shared_product(shared, each), shared @ each
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weights).sum(), (shared, each)) for y in (found, expected)]
    torch.testing.assert_close(*gradients)
