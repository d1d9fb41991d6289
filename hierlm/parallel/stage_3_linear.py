"""The linear function that DeepSpeed puts in place of torch's at ZeRO stage 3, made fit for selective recompute.

DeepSpeed's adds the bias to the product in place. Selective recompute keeps products (`hierlm.parallel.recompute`): the
kept one then had the bias in it already, and got it once more when the layer was computed again. Gradients were wrong
as soon as biases were not zero.
"""

from typing import Any

import torch
from torch import Tensor

from hierlm.parallel.seams import deepspeed_names
from hierlm.parallel.seams.engine import LinearFunction


def add_biases_out_of_place() -> None:
    """Replace the forward pass of DeepSpeed's linear function in this process; UserError if it takes something else."""
    replaced: Any = staticmethod(_linear)
    LinearFunction(deepspeed_names.LinearFunctionForZeroStage3).forward = replaced


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input [..., K], weight [N, K], bias [N] -> [..., N]."""
    if input.dim() == 2 and bias is not None:
        return torch.addmm(bias, input, weight.t())
    product = input.matmul(weight.t())
    return product if bias is None else product + bias
