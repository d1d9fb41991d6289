"""RMSNorm is its formula, forwards and backwards, and counts in fp32 whatever it is given."""

import pytest
import torch

from hierlm.nn.kernels.rms_norm import rms_norm

EPSILON = 1e-3


def formula(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + EPSILON).sqrt() * gain


@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 4, 5), (0, 5)])
def test_it_is_the_formula_in_both_passes(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    found, expected = rms_norm(x, gain, epsilon=EPSILON), formula(x, gain)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((found * weights).sum(), (x, gain))
    theirs = torch.autograd.grad((expected * weights).sum(), (x, gain))
    torch.testing.assert_close(ours, theirs)


def test_frozen_gains_and_inputs_get_no_gradient() -> None:
    x, gain = torch.randn(3, 5), torch.ones(5)
    for frozen in (x.clone().requires_grad_(), x):
        own = gain.clone().requires_grad_(frozen is x)
        rms_norm(frozen, own, epsilon=EPSILON).sum().backward()
        assert (frozen.grad is None) == (frozen is x) and (own.grad is None) == (frozen is not x)


def test_half_precision_is_rounded_once() -> None:
    generator = torch.Generator().manual_seed(1)
    x, gain = (torch.randn(n, 64, generator=generator).bfloat16() for n in (8, 1))
    found = rms_norm(x, gain[0], epsilon=EPSILON)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, formula(x.float(), gain[0].float()).bfloat16())
