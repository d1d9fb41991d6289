"""The linear memory that holds a window of the past as Legendre coefficients (LMU, 2019; 2110.02402, eq. 1-7).

Shapes: q order, n time steps. Everything is fixed, computed in float64 and never trained; results are cached.
With m the state, m' = A m + B x; x is held between steps of length 1, hence m_t = A_bar m_(t-1) + B_bar x_t.
"""

from functools import cache, lru_cache

import torch
from torch import Tensor


def continuous_system(*, order: int, window_length: int) -> tuple[Tensor, Tensor]:
    """A [q, q] and B [q] of the delay of `window_length` steps, float64."""
    i = torch.arange(order, dtype=torch.float64)[:, None]
    j = i.T
    signs = torch.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    scale = (2 * i + 1) / window_length
    return scale * signs, (scale * (-1.0) ** i)[:, 0]


@cache
def discrete_system(*, order: int, window_length: int) -> tuple[Tensor, Tensor]:
    """A_bar = e^A [q, q] and B_bar = A^-1 (e^A - I) B [q], both read off the exponential of [[A, B], [0, 0]]."""
    a, b = continuous_system(order=order, window_length=window_length)
    joined = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    joined[:order, :order], joined[:order, order] = a, b
    exponential = torch.linalg.matrix_exp(joined)
    return exponential[:order, :order].contiguous(), exponential[:order, order].contiguous()


def impulse_response(*, order: int, window_length: int, length: int) -> Tensor:
    """H [q, n], float64: column k is A_bar^k B_bar. Doubled log2(n) times, not stepped n times."""
    power, b = discrete_system(order=order, window_length=window_length)
    response = b[:, None]
    while response.shape[1] < length:
        response = torch.cat((response, power @ response), dim=1)
        power = power @ power
    return response[:, :length].contiguous()


def window_readout(delays: Tensor, *, order: int) -> Tensor:
    """Delays [R] as fractions of the window, 0 = now -> [R, q]: row r dotted with m is about x(t - r * window)."""
    x = 2 * delays.double() - 1
    values = [torch.ones_like(x), x]
    for i in range(1, order - 1):
        values.append(((2 * i + 1) * x * values[i] - i * values[i - 1]) / (i + 1))
    return torch.stack(values[:order], dim=-1)


@lru_cache(maxsize=64)
def transition(order: int, window_length: int, steps: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A_bar to the power `steps`, [q, q]."""
    a_bar, _ = discrete_system(order=order, window_length=window_length)
    return torch.linalg.matrix_power(a_bar, steps).to(device=device, dtype=dtype)


@lru_cache(maxsize=16)
def response(order: int, window_length: int, length: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """H [q, n] where and as it is used."""
    values = impulse_response(order=order, window_length=window_length, length=length)
    return values.to(device=device, dtype=dtype)
