"""Tensor parallelism from outside: the weights a model's tensor plan names become slices held by megatron-core layers.

Initial values are those of the single-device model at every degree: a slice is cut out of the whole weight, one layer
after another, so that no more than one layer is ever whole.
The rules of a plan: `hierlm.parallel.tensor_plan`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.attention.multi_head import KeyValueLinear
from hierlm.nn.attention.relative_attention import RelativeAttention
from hierlm.nn.basic.dropout import sites
from hierlm.nn.basic.head import soft_capped
from hierlm.nn.layer import Layer
from hierlm.nn.resampling.boundaries import entropies
from hierlm.nn.resampling.dynamic_pooling import BoundaryLoss
from hierlm.parallel.column_inputs import ColumnInputs
from hierlm.parallel.groups import Groups
from hierlm.parallel.log_sums import Slice
from hierlm.parallel.recompute import unkept_products
from hierlm.parallel.seams.megatron_names import (
    ColumnParallelLinear,
    ModelParallelConfig,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from hierlm.parallel.seams.parameters import mark_summed
from hierlm.parallel.seams.slices import without_extra_state
from hierlm.parallel.seams.torch_private import forget_load_hooks
from hierlm.parallel.shared_heads import SharedHeads
from hierlm.parallel.sliced_entropy import SlicedEntropies
from hierlm.parallel.tensor_plan import Rule, TensorPlan, rule_for

Sliced = TypeVar("Sliced", bound=nn.Module)


@without_extra_state
class SlicedColumn(ColumnParallelLinear):
    """Whole input [..., D] -> this rank's part of the output, [..., width / degree]."""

    inputs: ColumnInputs
    beside: Sequence["SlicedColumn"]
    """Those that may read the same, itself among them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.inputs.product(x, self.weight, self.bias, beside=[column.weight for column in self.beside])


@without_extra_state
class SlicedRow(RowParallelLinear):
    """This rank's part of the input [..., width / degree] -> whole output [..., D], the same on every rank.

    `sum_over_ranks` may do the sum in another way; the bias comes after it.
    """

    sum_over_ranks: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.sum_over_ranks is not None:
            with unkept_products():  # only a share of their sum is needed later
                product = F.linear(x, self.weight)
            total = self.sum_over_ranks(product)
            return total if self.bias is None else total + self.bias
        with unkept_products():  # they are summed over ranks in place: a kept one would be summed again
            return _on_rows(super().forward, x)


class SlicedHead(SlicedColumn):
    """Logits of this rank's part of the vocabulary; those of padding are so low that no probability reaches them."""

    is_padding: Tensor
    part: Slice
    soft_cap: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        logits = soft_capped(super().forward(x), self.soft_cap)
        return logits.masked_fill(self.is_padding, torch.finfo(logits.dtype).min)


def slice_layer(layer: Layer, index: int, plan: TensorPlan, groups: Groups) -> None:
    """Replace, in place, what the plan slices of the layer that stands at `index` of the list and was built whole.

    Weights tied within it stay tied. Nothing changes at degree 1. ValueError names a weight that no pattern covers, or
    whose width the degree does not divide.
    """
    if groups.degrees["tensor"] == 1:
        return
    cutter = _Cutter(groups)
    if isinstance(layer, BoundaryLoss):
        layer.entropies = SlicedEntropies(groups.tensor)
    for site in sites(layer):
        site.part = (groups.tp_rank, groups.degrees["tensor"])
    for path, module in list(layer.named_modules()):
        for name, _ in list(module.named_parameters(recurse=False)):
            where = ".".join(filter(None, ("layers", str(index), path, name)))
            rule = rule_for(plan, where)
            is_known = isinstance(module, nn.Linear | nn.Embedding)
            if is_known and name == "weight" and rule not in ("replicate", "partial"):
                layer.set_submodule(path, cutter.sliced_module(module, rule, where=where))
                break
            cutter.slice_parameter(module, name, rule, where=where)
    _let_read(layer, ColumnInputs(layer, groups.tensor))


def _let_read(layer: Layer, inputs: ColumnInputs) -> None:
    """Tell the column slices of a layer of each other: what one module holds may read the same."""
    for module in layer.modules():
        columns = [child for child in module.children() if isinstance(child, SlicedColumn)]
        for reader in module.children():
            if isinstance(reader, SlicedColumn | SharedHeads):
                reader.inputs, reader.beside = inputs, columns
        if isinstance(module, RelativeAttention) and columns:
            inputs.enter_with(module, [column.weight for column in columns])


def logits_are_sliced(layers: Mapping[int, Layer]) -> bool:
    """Whether the last of these layers leaves a slice of the vocabulary on each rank."""
    return any(
        has_sliced_head(layer) or (isinstance(layer, BoundaryLoss) and layer.entropies is not entropies)
        for layer in layers.values()
    )


def has_sliced_head(layer: Layer) -> bool:
    """Whether it makes the logits of a slice of the vocabulary."""
    return any(isinstance(module, SlicedHead) for module in layer.modules())


def slice_of_vocabulary(layers: Mapping[int, Layer]) -> Slice | None:
    """Which one the sliced head among these layers makes logits of; None where there is none."""
    heads = (module for layer in layers.values() for module in layer.modules() if isinstance(module, SlicedHead))
    return next((head.part for head in heads), None)


class _Cutter:
    """Cuts this rank's slices; a weight met twice (tied) is cut once."""

    def __init__(self, groups: Groups) -> None:
        self.degree, self.tp_rank, self.groups = groups.degrees["tensor"], groups.tp_rank, groups
        self._cut: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # keeps the whole one alive: ids stay unique

    def sliced_module(self, module: nn.Linear | nn.Embedding, rule: Rule, *, where: str) -> nn.Module:
        if isinstance(module, nn.Embedding):
            assert rule == "vocabulary", f"{where}: an embedding is sliced by vocabulary or replicated, not {rule}"
            return self._embedding(module)
        if rule == "row":
            return self._row(module, where=where)
        if isinstance(module, KeyValueLinear) and self.degree > module.num_heads:
            return self._shared_heads(module, where=where)
        return self._column(module, pads=rule == "vocabulary", where=where)

    def slice_parameter(self, module: nn.Module, name: str, rule: Rule, *, where: str) -> None:
        """A parameter that is neither a Linear's nor an Embedding's."""
        parameter = module.get_parameter(name)
        if rule == "partial":
            self._sum_gradient(parameter)
        elif rule != "replicate":
            dim = parameter.dim() - 1 if rule == "row" else 0
            module.register_parameter(name, self._slice(parameter, dim=dim, pads=rule == "vocabulary", where=where))

    def _sum_gradient(self, parameter: nn.Parameter) -> None:
        if id(parameter) not in self._cut:  # a tied one is summed once
            parameter.register_hook(partial(_summed, self.groups.tensor))  # which keeps no whole weight alive
            mark_summed(parameter)
            self._cut[id(parameter)] = (parameter, parameter)

    def _shared_heads(self, module: KeyValueLinear, *, where: str) -> SharedHeads:
        if self.degree % module.num_heads:
            raise ValueError(
                f"parallel.tensor_parallel_degree: {self.degree} is no multiple of the {module.num_heads} heads of "
                f"{where}, nor a divisor; choose a degree that is one"
            )
        for parameter in module.parameters():
            self._sum_gradient(parameter)
        return SharedHeads(module, num_heads=module.num_heads, groups=self.groups)

    def _embedding(self, module: nn.Embedding) -> nn.Module:
        rows, width = module.weight.shape
        padded = self._padded(rows)
        sliced = VocabParallelEmbedding(
            padded, width, init_method=_no_init, config=self._config(module.weight), tp_group=self.groups.tensor
        )
        sliced.weight = self._slice(module.weight, dim=0, pads=True, where="embedding")
        return sliced

    def _column(self, module: nn.Linear, *, pads: bool, where: str) -> SlicedColumn:
        width = self._padded(module.out_features) if pads else module.out_features
        self._check_divides(width, where=where)
        sliced = (SlicedHead if pads else SlicedColumn)(
            module.in_features,
            width,
            bias=module.bias is not None,
            gather_output=False,
            init_method=_no_init,
            config=self._config(module.weight),
            tp_group=self.groups.tensor,
        )
        sliced.weight = self._slice(module.weight, dim=0, pads=pads, where=where)
        if module.bias is not None:
            sliced.bias = self._slice(module.bias, dim=0, pads=pads, where=where)
        if pads:
            sliced.part = Slice(self.tp_rank * width // self.degree, self.groups.tensor)
            sliced.soft_cap = getattr(module, "soft_cap", None)
            columns = torch.arange(width).chunk(self.degree)[self.tp_rank]
            sliced.register_buffer("is_padding", columns >= module.out_features, persistent=False)
        return _without_hooks(sliced)

    def _row(self, module: nn.Linear, *, where: str) -> SlicedRow:
        self._check_divides(module.in_features, where=where)
        sliced = SlicedRow(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            input_is_parallel=True,
            skip_bias_add=False,
            init_method=_no_init,
            config=self._config(module.weight),
            tp_group=self.groups.tensor,
        )
        sliced.weight = self._slice(module.weight, dim=1, pads=False, where=where)
        if module.bias is not None:
            sliced.bias = module.bias
        return _without_hooks(sliced)

    def _slice(self, whole: nn.Parameter, *, dim: int, pads: bool, where: str) -> nn.Parameter:
        """This rank's part of a whole weight; padding is zeros and stays so: it never gets a gradient."""
        if id(whole) in self._cut:
            return self._cut[id(whole)][1]
        values, width = whole.detach(), whole.shape[dim]
        size = self._padded(width) // self.degree
        if not pads:
            self._check_divides(width, where=where)
        first = min(self.tp_rank * size, width)
        own = values.narrow(dim, first, min(size, width - first)).clone()
        if own.shape[dim] < size:
            own = torch.cat([own, own.new_zeros(size - own.shape[0], *own.shape[1:])])
        part = nn.Parameter(own, requires_grad=whole.requires_grad)
        set_tensor_model_parallel_attributes(part, True, dim, 1)
        self._cut[id(whole)] = (whole, part)
        return part

    def _padded(self, size: int) -> int:
        return -(-size // self.degree) * self.degree

    def _check_divides(self, width: int, *, where: str) -> None:
        if width % self.degree:
            raise ValueError(
                f"parallel.tensor_parallel_degree: {self.degree} does not divide the {width} of {where}; "
                f"choose a degree that does"
            )

    def _config(self, weight: Tensor) -> Any:
        return ModelParallelConfig(
            tensor_model_parallel_size=self.degree,
            use_cpu_initialization=True,
            perform_initialization=False,
            gradient_accumulation_fusion=False,
            params_dtype=weight.dtype,
        )


def _summed(group: dist.ProcessGroup, gradient: Tensor) -> Tensor:
    total = gradient.clone()
    dist.all_reduce(total, group=group)
    return total


def _on_rows(forward, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    """Megatron's linear layers know two or three dimensions; ours are applied to any number."""
    output, _ = forward(x.flatten(0, -2))
    return output.unflatten(0, x.shape[:-1])


def _no_init(weight: Tensor) -> None:
    raise AssertionError("megatron-core initialises nothing: slices are cut from weights already built")


def _without_hooks(module: Sliced) -> Sliced:
    """megatron-core adds an `_extra_state` to every state dict it loads, which a strict load then refuses."""
    forget_load_hooks(module)
    return module
