"""The fixed matrices of the Legendre memory against scipy, and what they promise about the past."""

import numpy as np
import pytest
import torch

from hierlm.nn.recurrent import legendre

SIZES = [(4, 10), (20, 64), (100, 1024), (250, 1024)]


@pytest.mark.parametrize(("order", "window_length"), SIZES)
def test_zero_order_hold_equals_scipys(order, window_length):
    from scipy.signal import cont2discrete  # seconds, which every worker would spend when it collects the tests

    a, b = legendre.continuous_system(order=order, window_length=window_length)
    expected_a, expected_b, *_ = cont2discrete((a, b[:, None], np.ones((1, order)), 0), 1.0, "zoh")
    a_bar, b_bar = legendre.discrete_system(order=order, window_length=window_length)
    assert np.abs(a_bar - expected_a).max() < 1e-12
    assert np.abs(b_bar - expected_b[:, 0]).max() < 1e-12


def test_the_system_of_the_paper_written_out():
    a, b = legendre.continuous_system(order=3, window_length=2)
    assert np.array_equal(a * 2, [[-1, -1, -1], [3, -3, -3], [-5, 5, -5]])
    assert np.array_equal(b * 2, [1, -3, 5])


@pytest.mark.parametrize(("order", "window_length", "radius"), [(100, 1024, 0.987), (250, 1024, 0.982)])
def test_the_memory_is_stable(order, window_length, radius):
    a_bar, _ = legendre.discrete_system(order=order, window_length=window_length)
    assert abs(np.abs(np.linalg.eigvals(a_bar)).max() - radius) < 1e-3


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
def test_the_impulse_response_is_the_stepped_one(length):
    a_bar, b_bar = legendre.discrete_system(order=20, window_length=64)
    state, columns = b_bar, []
    for _ in range(length):
        columns.append(state)
        state = a_bar @ state
    response = legendre.impulse_response(order=20, window_length=64, length=length)
    assert np.abs(response - np.stack(columns, axis=1)).max() < 1e-12


def test_a_window_of_a_sine_can_be_read_back():
    """2110.02402: x(t - r * window) is about the sum of P_i(2r - 1) m_i."""
    time = np.arange(4000)
    signal = np.sin(2 * np.pi * time / 300)
    response = legendre.impulse_response(order=100, window_length=1024, length=4000)
    state = response[:, ::-1] @ signal
    delays = np.array([0.0, 0.25, 0.5, 1.0])
    read = np.polynomial.legendre.legvander(2 * delays - 1, 99) @ state
    assert np.abs(read - np.sin(2 * np.pi * (3999 - delays * 1024) / 300)).max() < 0.02


def test_constants_made_in_inference_serve_training_afterwards():
    arguments = {"device": torch.device("cpu"), "dtype": torch.float32}
    with torch.inference_mode():
        made = legendre.response(6, 17, 11, **arguments)
    weight = torch.ones(6, requires_grad=True)
    (weight @ made).sum().backward()
    assert weight.grad is not None and not made.requires_grad
