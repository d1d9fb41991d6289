"""One tensor-parallel rank's slices without its peers: the shapes and the kept tensors of `hierlm.parallel.tensor`.

Only sizes are right here: sums over ranks are left out, values are those of nobody.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.layer import Layer
from hierlm.parallel.recompute import unkept_products
from hierlm.parallel.tensor_plan import Rule, TensorPlan, rule_for


class _Slice(nn.Module):
    """A linear layer's slice.

    `summed_forward` and `summed_backward`: values the last pass would have summed over the tensor-parallel ranks.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.forward_flops = self.summed_forward = self.summed_backward = 0

    def _product(self, x: Tensor) -> Tensor:
        product = x.flatten(0, -2).matmul(self.weight.t())
        if self.bias is not None:
            product = product + self.bias
        return product.unflatten(0, x.shape[:-1])


class ColumnSlice(_Slice):
    """megatron-core's ColumnParallelLinear: the bias is added to the finished product."""

    num_inputs = 0
    """Values the last pass was given."""

    _leaves_gradient_in_parts = False

    def leave_input_gradient_in_parts(self) -> None:
        """Whoever gathered the input sums its gradient, once for all who took it."""
        self._leaves_gradient_in_parts = True

    def forward(self, x: Tensor) -> Tensor:
        self.forward_flops, self.num_inputs = 2 * x.numel() * self.weight.shape[0], x.numel()
        self.summed_backward = 0 if self._leaves_gradient_in_parts else x.numel()
        return self._product(x)


class RowSlice(_Slice):
    """RowParallelLinear: the product is summed over ranks in place, so selective recompute makes it again.

    `sum_over_ranks` may do the sum in another way, which leaves each rank a share of it.
    """

    sum_over_ranks: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.forward_flops = 2 * x.numel() * self.weight.shape[0]
        if self.sum_over_ranks is not None:
            with unkept_products():
                product = F.linear(x, self.weight)
            self.summed_forward = self.summed_backward = product.numel() // 2  # a reduce-scatter, and a gather back
            total = self.sum_over_ranks(product)
            return total if self.bias is None else total + self.bias
        with unkept_products():
            output = self._product(x)
        self.summed_forward = output.numel()
        return output


class HeadSlice(ColumnSlice):
    """Logits of a part of the vocabulary, those of padding masked."""

    is_padding: Tensor

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__(weight, bias)
        self.register_buffer("is_padding", torch.zeros(weight.shape[0], dtype=torch.bool, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.masked_fill(self.is_padding, torch.finfo(logits.dtype).min)


class EmbeddingSlice(nn.Module):
    """VocabParallelEmbedding: tokens of other ranks' rows are masked on the way in and out."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
        self.summed_forward = self.summed_backward = 0

    def forward(self, tokens: Tensor) -> Tensor:
        elsewhere = (tokens < 0) | (tokens >= self.weight.shape[0])
        vectors = F.embedding(tokens.masked_fill(elsewhere, 0), self.weight)
        self.summed_forward = vectors.numel()
        return vectors.masked_fill(elsewhere[..., None], 0.0)


class SlicedCrossEntropy(torch.autograd.Function):
    """megatron-core's vocab_parallel_cross_entropy: softmax and gradient overwrite the logits."""

    @staticmethod
    def forward(context: Any, logits: Tensor, targets: Tensor) -> Tensor:
        context.save_for_backward(logits, targets.clamp(min=0), targets >= 0)
        return logits.new_empty(logits.shape[:-1])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.saved_tensors[0], None


def slice_layers(layers: Mapping[int, Layer], plan: TensorPlan, *, degree: int) -> None:
    """Replace in place what the plan slices; ValueError where the degree does not divide a width."""
    if degree == 1:
        return
    cutter = _Cutter(degree)
    for index, layer in layers.items():
        for path, module in list(layer.named_modules()):
            for name, _ in list(module.named_parameters(recurse=False)):
                where = ".".join(filter(None, ("layers", str(index), path, name)))
                rule = rule_for(plan, where)
                if rule in ("replicate", "partial"):
                    continue
                if isinstance(module, nn.Linear | nn.Embedding) and name == "weight":
                    layer.set_submodule(path, cutter.module(module, rule, where))
                    break
                module.register_parameter(name, cutter.part(module.get_parameter(name), rule, where))


class _Cutter:
    """Parameters of a slice's shape; a weight met twice (tied) is cut once."""

    def __init__(self, degree: int) -> None:
        self._degree = degree
        self._cut: dict[int, tuple[Tensor, nn.Parameter]] = {}

    def module(self, module: nn.Linear | nn.Embedding, rule: Rule, where: str) -> nn.Module:
        weight = self.part(module.weight, rule, where)
        if isinstance(module, nn.Embedding):
            return EmbeddingSlice(weight)
        if rule == "row":
            return RowSlice(weight, module.bias)
        bias = None if module.bias is None else self.part(module.bias, rule, where)
        return (HeadSlice if rule == "vocabulary" else ColumnSlice)(weight, bias)

    def part(self, whole: Tensor, rule: Rule, where: str) -> nn.Parameter:
        if id(whole) not in self._cut:
            shape, dim = [*whole.shape], whole.dim() - 1 if rule == "row" else 0
            if shape[dim] % self._degree and rule != "vocabulary":
                width = shape[dim]
                raise ValueError(
                    f"parallel.tensor_parallel_degree: {self._degree} does not divide the {width} of {where}"
                )
            shape[dim] = -(-shape[dim] // self._degree)
            part = nn.Parameter(whole.new_zeros(shape), requires_grad=whole.requires_grad)
            part.tensor_model_parallel = True  # type: ignore[attr-defined]  # as megatron-core marks them
            self._cut[id(whole)] = (whole, part)  # keeps the whole one alive: ids stay unique
        return self._cut[id(whole)][1]
