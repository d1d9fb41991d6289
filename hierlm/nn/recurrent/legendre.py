"""The linear memory that holds a window of the past as Legendre coefficients (LMU, 2019; 2110.02402, eq. 1-7).

Shapes: q order, n time steps. Everything is fixed and never trained. It is computed once, in float64 and by numpy, so
that no mode torch may be in (counting, meta tensors, inference) touches what later calls share.
With m the state, m' = A m + B x; x is held between steps of length 1, hence m_t = A_bar m_(t-1) + B_bar x_t.
"""

from functools import cache, lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = npt.NDArray[np.float64]


def continuous_system(*, order: int, window_length: int) -> tuple[Array, Array]:
    """A [q, q] and B [q] of the delay of `window_length` steps."""
    i = np.arange(order)[:, None]
    j = i.T
    scale = (2 * i + 1) / window_length
    return scale * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)), (scale * (-1.0) ** i)[:, 0]


@cache
def discrete_system(*, order: int, window_length: int) -> tuple[Array, Array]:
    """A_bar = e^A [q, q] and B_bar = A^-1 (e^A - I) B [q], both read off the exponential of [[A, B], [0, 0]]."""
    joined = np.zeros((order + 1, order + 1))
    joined[:order, :order], joined[:order, order] = continuous_system(order=order, window_length=window_length)
    exponential = _exponential(joined)
    return exponential[:order, :order], exponential[:order, order]


def _exponential(matrix: Array) -> Array:
    """e^matrix: Taylor's series of the matrix halved until its norm is below 1, squared back."""
    halvings = max(0, int(np.ceil(np.log2(np.linalg.norm(matrix, 1)))))
    small = matrix / 2**halvings
    term = total = np.eye(len(matrix))
    for degree in range(1, 20):
        term = term @ small / degree
        total = total + term
    return np.linalg.matrix_power(total, 2**halvings)


@lru_cache(maxsize=16)
def impulse_response(*, order: int, window_length: int, length: int) -> Array:
    """H [q, n]: column k is A_bar^k B_bar. Doubled log2(n) times, not stepped n times."""
    power, b = discrete_system(order=order, window_length=window_length)
    response = b[:, None]
    while response.shape[1] < length:
        response = np.concatenate((response, power @ response), axis=1)
        power = power @ power
    return np.ascontiguousarray(response[:, :length])


@lru_cache(maxsize=64)
def transition(order: int, window_length: int, steps: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A_bar to the power `steps`, [q, q], where and as it is used."""
    a_bar, _ = discrete_system(order=order, window_length=window_length)
    return _constant(np.linalg.matrix_power(a_bar, steps), device=device, dtype=dtype)


@lru_cache(maxsize=16)
def response(order: int, window_length: int, length: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """H [q, n] where and as it is used."""
    values = impulse_response(order=order, window_length=window_length, length=length)
    return _constant(values, device=device, dtype=dtype)


def _constant(values: Array, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(values).to(device=device, dtype=dtype)
