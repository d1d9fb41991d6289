"""The linear function of ZeRO stage 3 is torch's, and leaves the product it has made as it is."""

import pytest
import torch
from deepspeed.runtime.zero.linear import LinearFunctionForZeroStage3
from torch.utils._python_dispatch import TorchDispatchMode

from hierlm.errors import UserError
from hierlm.parallel.stage_3_linear import add_biases_out_of_place


@pytest.fixture(autouse=True)
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearFunctionForZeroStage3, "forward", LinearFunctionForZeroStage3.forward)  # put back after
    add_biases_out_of_place()
    add_biases_out_of_place()  # every engine asks for it


class Products(TorchDispatchMode):
    """What every matrix product has given, and a copy of it as it was then."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.mm.default:
            self.made.append((result, result.clone()))
        return result


@pytest.mark.parametrize("shape", [(2, 5), (3, 2, 5)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_it_is_a_linear_layer_whose_product_stays(shape: tuple[int, ...], has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    x, weight = torch.randn(*shape, generator=generator), torch.randn(4, 5, generator=generator)
    bias = torch.randn(4, generator=generator) if has_bias else None
    with Products() as products:
        found = LinearFunctionForZeroStage3.apply(x, weight, bias)
    expected = x @ weight.t() + (0 if bias is None else bias)
    torch.testing.assert_close(found, expected)
    assert products.made or len(shape) < 3
    assert all(now.equal(then) for now, then in products.made)


def test_another_function_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinearFunctionForZeroStage3, "forward", staticmethod(lambda ctx, x, weight: None))
    with pytest.raises(UserError, match=r"takes \(ctx, x, weight\), ours takes \(input, weight, bias\)"):
        add_biases_out_of_place()
