"""Softmax over few: the numbers of torch's."""

import pytest
import torch

from hierlm.nn.kernels import short_softmax
from hierlm.nn.kernels.short_softmax import softmax_over_few


@pytest.fixture(params=[32, 64])
def vector_bytes(request, monkeypatch):
    monkeypatch.setattr(short_softmax, "vector_bytes", lambda: request.param)
    return request.param


@pytest.mark.parametrize("shape", [(3, 5, 10, 10), (2, 7), (4, 1), (6, 40), (0, 3)])
def test_shares_and_gradients_are_those_of_torch(shape, vector_bytes):
    x = torch.randn(shape, dtype=torch.float32).mul_(30).requires_grad_()
    found, expected = softmax_over_few(x), x.softmax(dim=-1)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(shape)
    torch.testing.assert_close(
        *(torch.autograd.grad(shares, x, weights, retain_graph=True)[0] for shares in (found, expected))
    )


def test_axes_in_another_order_in_memory_are_taken(vector_bytes):
    x = torch.randn(3, 4, 6).transpose(0, 2).requires_grad_()
    weights = torch.randn(6, 4, 3).mT.contiguous().mT
    found, expected = softmax_over_few(x), x.softmax(dim=-1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(shares, x, weights)[0] for shares in (found, expected)))


@pytest.mark.parametrize(("width", "is_turned"), [(15, True), (16, False)])
def test_only_rows_shorter_than_a_vector_are_turned(width, is_turned, monkeypatch):
    monkeypatch.setattr(short_softmax, "vector_bytes", lambda: 64)
    shares = softmax_over_few(torch.randn(2, width, requires_grad=True))
    assert (type(shares.grad_fn).__name__ == "_SoftmaxBackward") == is_turned
