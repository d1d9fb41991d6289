"""The linear function that DeepSpeed puts in place of torch's at ZeRO stage 3, made fit for selective recompute.

DeepSpeed's adds the bias to the product in place. Selective recompute keeps products (`hierlm.parallel.recompute`): the
kept one then had the bias in it already, and got it once more when the layer was computed again. Gradients were wrong
as soon as biases were not zero.
"""

import inspect

import torch
from deepspeed.runtime.zero.linear import LinearFunctionForZeroStage3
from torch import Tensor

PARAMETERS = ("input", "weight", "bias")
"""Of the function that is replaced: another DeepSpeed may have another."""


def add_biases_out_of_place() -> None:
    """Replace the forward pass of DeepSpeed's linear function in this process; RuntimeError if it is another one."""
    found = tuple(inspect.signature(LinearFunctionForZeroStage3.forward).parameters)
    if found != PARAMETERS:
        raise RuntimeError(
            f"DeepSpeed's linear function of stage 3 takes {found}, not {PARAMETERS}: not known to be right"
        )
    LinearFunctionForZeroStage3.forward = staticmethod(_linear)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input [..., K], weight [N, K], bias [N] -> [..., N]."""
    if input.dim() == 2 and bias is not None:
        return torch.addmm(bias, input, weight.t())
    product = input.matmul(weight.t())
    return product if bias is None else product + bias
