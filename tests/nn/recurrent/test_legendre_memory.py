"""The forms of the Legendre memory agree: stepped, direct, by FFT, in chunks, reduced."""

from typing import Any

import pytest
import torch

from hierlm.nn.kernels import linear
from hierlm.nn.recurrent import legendre
from hierlm.nn.recurrent.legendre_memory import (
    LegendreMemory,
    Readout,
    causal_convolution,
    direct_convolution,
    fft_convolution,
)

Q, WINDOW = 12, 40


def _memory(chunk_length: int | None = None) -> LegendreMemory:
    return LegendreMemory(order=Q, window_length=WINDOW, chunk_length=chunk_length)


def _stepped(x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, n, q, d]: the whole state after every step, one step after the other."""
    states = []
    for step in x.unbind(dim=1):
        state = _memory().step(step, state)
        states.append(state)
    return torch.stack(states, dim=1), state


def _side_by_side(*reads: torch.Tensor) -> torch.Tensor:
    return torch.cat(reads, dim=2)


def _inputs(length: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, length, 3, generator=generator, dtype=dtype)
    state = torch.randn(2, Q, 3, generator=generator, dtype=dtype)
    return x, torch.randn(5, Q, generator=generator, dtype=dtype), state


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 130])
@pytest.mark.parametrize("chunk_length", [None, 7, 64, 100])
def test_every_form_equals_the_stepped_one(dtype, tolerance, length, chunk_length):
    x, readout, state = _inputs(length, dtype)
    states, last = _stepped(x, state)
    bias = torch.arange(3.0, dtype=dtype)
    both = [Readout(readout[:2]), Readout(readout[2:], bias)]
    read, after = _memory(chunk_length).advance(x, both, use=_side_by_side, state=state)
    expected = readout @ states + torch.cat((bias.new_zeros(2), bias))[:, None]
    torch.testing.assert_close(read, expected, rtol=0, atol=tolerance * 10)
    torch.testing.assert_close(after, last, rtol=0, atol=tolerance)


@pytest.mark.skipif(linear.fused_product is None, reason="this build of torch has no oneDNN")
def test_products_of_another_library_make_no_difference(monkeypatch):
    """As on an AMD processor, however small."""
    results, made, times = [], [], linear.times
    monkeypatch.setattr("hierlm.nn.kernels.shared_product.times", lambda *of: made.append(1) or times(*of))
    for is_used in (False, True):
        monkeypatch.setattr(linear, "has_slow_blas", lambda is_used=is_used: is_used)
        monkeypatch.setattr(linear, "LEAST_MULTIPLICATIONS", 1)
        x, readout, state = (t.requires_grad_() for t in _inputs(200, torch.float32))
        read = _memory(chunk_length=130).read(x, readout, state=state)
        weights = torch.randn(read.shape, generator=torch.Generator().manual_seed(1))
        results.append((read, *torch.autograd.grad((read * weights).sum(), (x, readout, state))))
        assert bool(made) == is_used
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_length", [None, 16])
def test_no_state_is_a_state_of_zeros(chunk_length):
    x, readout, state = _inputs(40)
    without = _memory(chunk_length).read(x, readout, state=None)
    torch.testing.assert_close(without, _memory().read(x, readout, state=torch.zeros_like(state)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_at_full_size_fft_equals_stepping(dtype, tolerance):
    """Order 250 over 1024 steps, as in the paper."""
    arguments = {"device": torch.device("cpu"), "dtype": dtype}
    x = torch.randn(1, 1024, 1, generator=torch.Generator().manual_seed(1), dtype=dtype)
    response = legendre.response(250, 1024, 1024, **arguments)
    a_bar = legendre.transition(250, 1024, 1, **arguments)
    state, states = torch.zeros(250, dtype=dtype), []
    for step in x[0, :, 0]:
        state = a_bar @ state + response[:, 0] * step
        states.append(state)
    torch.testing.assert_close(fft_convolution(x, response)[0, :, :, 0], torch.stack(states), rtol=0, atol=tolerance)


def test_reduced_order_convolution_is_the_readout_of_the_full_state():
    x, readout, _ = _inputs(80)
    full = _memory().read(x, torch.eye(Q, dtype=torch.float64), state=None)
    torch.testing.assert_close(_memory().read(x, readout, state=None), readout @ full, rtol=0, atol=1e-12)


def test_direct_and_fft_agree_and_an_unpadded_fft_does_not():
    x, readout, _ = _inputs(60)
    filters = readout @ torch.from_numpy(legendre.impulse_response(order=Q, window_length=WINDOW, length=60))
    direct = direct_convolution(x, filters)
    torch.testing.assert_close(fft_convolution(x, filters), direct, rtol=0, atol=1e-12)
    product = torch.einsum("rf,bfd->bfrd", torch.fft.rfft(filters, dim=-1), torch.fft.rfft(x, dim=1))
    wrapped = torch.fft.irfft(product, n=60, dim=1)
    assert (wrapped - direct).abs().max() > 0.1


def test_short_convolutions_are_causal_to_the_bit_and_long_ones_up_to_rounding():
    for length, exact in ((64, True), (200, False)):
        x, readout, _ = _inputs(length)
        filters = readout @ torch.from_numpy(legendre.impulse_response(order=Q, window_length=WINDOW, length=length))
        original = causal_convolution(x, filters)
        for position in (1, length // 2, length - 1):
            changed = x.clone()
            changed[:, position:] += 1
            difference = (causal_convolution(changed, filters) - original)[:, :position].abs().max()
            assert difference == 0 if exact else difference < 1e-13
            assert (causal_convolution(changed, filters) - original)[:, position:].abs().amax(dim=(0, 2, 3)).min() > 0


@pytest.mark.parametrize("chunk_length", [None, 4, 64])
def test_gradients_by_finite_differences(chunk_length):
    x, readout, state = _inputs(9 if chunk_length != 64 else 34)
    memory = _memory(chunk_length)
    arguments = tuple(t.requires_grad_() for t in (x, readout, torch.randn_like(readout[:, 0]), state))

    def advanced(x: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor, state: torch.Tensor) -> Any:
        return memory.advance(x, [Readout(matrix, bias)], use=_side_by_side, state=state)

    assert torch.autograd.gradcheck(advanced, arguments)
