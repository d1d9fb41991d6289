"""What each layer costs at its own resolution, counted by running the layer list on tensors that hold no data.

Only products are counted (matrix products, convolutions, attention, Fourier transforms), 2 FLOPs per
multiply-accumulate; element-wise work is left out, as in the MFU of PaLM (Chowdhery et al. 2022, 2204.02311, app. B),
and so is the saving of causal masking: attention counts every pair that its kernel is given, T x T in a causal square.

Shapes: one row of T tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from hierlm.costs.equal_layers import are_equal
from hierlm.models.assembly import input_specs, layer_specs, shared_weights
from hierlm.models.config import ModelConfig
from hierlm.models.weightless import alone
from hierlm.nn.inputs import InputSpecs, neutral
from hierlm.nn.kernels import prefix_attention
from hierlm.nn.kernels.linear import fused_product
from hierlm.nn.layer import Layer, LayerSpec, Memory
from hierlm.nn.stream import Stream

TRAINING_FACTOR = 3
"""Forward + backward over forward: the backward pass does two products for each of the forward pass."""

_MOST_SEGMENTS = 256  # a memory that still grows after this many segments is not going to settle

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerCost:
    """One layer of the list, per row of the batch; parameters shared with an earlier owner are counted there."""

    name: str  # `layers.<index>.<class>`
    forward_flops: int
    parameters: int
    output_bytes_per_row: int  # what would cross a pipeline boundary behind this layer: the whole stack

    @property
    def training_flops(self) -> int:
        """Forward + backward of one row, without recompute."""
        return TRAINING_FACTOR * self.forward_flops


def layer_costs(config: ModelConfig, *, sequence_length: int, bytes_per_value: int = 2) -> list[LayerCost]:
    """The cost of every layer for rows of `sequence_length` tokens; recurrent memories are full.

    `bytes_per_value` is the size of one activation (2 for bf16, 4 for fp32). Layers whose shapes depend on the data
    cannot run without it: such a model is run once on real random tokens instead.
    """
    specs = layer_specs(config)
    inputs, shared = input_specs(config), _shared_sizes(config)
    costs_of = partial(_costs, specs, inputs=inputs, shared=shared, bytes_per_value=bytes_per_value)
    tokens = torch.randint(config.vocab_size, (1, sequence_length), generator=torch.Generator().manual_seed(0))
    try:
        return costs_of(tokens.to("meta"))
    except RuntimeError as error:  # torch has two ways to say it: a value is asked for, a shape hangs on values
        if not (isinstance(error, NotImplementedError) or "meta tensor" in str(error).lower()):
            raise
        return costs_of(tokens)


def flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """Training FLOPs (forward + backward, no recompute) per token of a row of `sequence_length` tokens."""
    return sum(cost.training_flops for cost in layer_costs(config, sequence_length=sequence_length)) / sequence_length


def _costs(
    specs: Sequence[LayerSpec],
    tokens: Tensor,
    *,
    inputs: InputSpecs,
    shared: dict[int, set[str]],
    bytes_per_value: int,
) -> list[LayerCost]:
    costs: list[LayerCost] = []
    stream = Stream.of(neutral(inputs, tokens))
    given: list[torch.Size] = []
    for index, spec in enumerate(specs):
        before, given = given, [level.shape for level in stream.levels]
        borrows = (shared.get(index), shared.get(index - 1))
        if (
            index
            and tokens.is_meta
            and before == given
            and borrows == (None, None)
            and are_equal(spec, specs[index - 1])
        ):
            kind = costs[-1].name.rpartition(".")[2]
            costs.append(replace(costs[-1], name=f"layers.{index}.{kind}"))  # and the stream is as it was
            continue
        layer = alone(spec, index=index, device=tokens.device)
        stream, flops = _counted(layer, stream)
        costs.append(
            LayerCost(
                name=f"layers.{index}.{type(layer).__name__}",
                forward_flops=flops,
                parameters=sum(p.numel() for n, p in layer.named_parameters() if n not in shared.get(index, ())),
                output_bytes_per_row=sum(_num_bytes(level, bytes_per_value) for level in stream.levels),
            )
        )
    return costs


@torch.no_grad()
def _counted(layer: Layer, stream: Stream) -> tuple[Stream, int]:
    """(output, FLOPs) of the segment in which the layer's recurrent memory has reached its final size."""
    memory = layer.initial_memory(1, device=stream.hidden.device, dtype=torch.float32)
    for _ in range(_MOST_SEGMENTS):
        with FlopCounterMode(display=False, custom_mapping=_MORE_FORMULAS) as counter:
            output, new_memory = layer(stream, memory)
        if _shapes(new_memory) == _shapes(memory):
            return output, counter.get_total_flops()
        memory = new_memory
    raise ValueError(f"{type(layer).__name__}: its recurrent memory grows without end")


def _shapes(memory: Memory | None) -> list[torch.Size]:
    return [] if memory is None else [tensor.shape for tensor in memory]


def _num_bytes(tensor: Tensor, bytes_per_value: int) -> int:
    return tensor.numel() * (bytes_per_value if tensor.is_floating_point() else tensor.element_size())


def _shared_sizes(config: ModelConfig) -> dict[int, set[str]]:
    """Layer index -> names of the parameters it only borrows."""
    borrowed: dict[int, set[str]] = {}
    for share in shared_weights(config):
        borrowed.setdefault(share.user, set()).add(share.user_parameter)
    return borrowed


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *args: Any, **kwargs: Any) -> int:
    """The attention of a CPU, torch's and ours, which torch has no formula for."""
    return int(sdpa_flop_count(query, key, value))


def _product_flops(x: Sequence[int], weight: Sequence[int], *args: Any, **kwargs: Any) -> int:
    return 2 * math.prod(x) * weight[0]


def _fft_flops(shape: Sequence[int], dims: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """5 N log2 N for a complex transform of N points (Cooley & Tukey), over every other element of the tensor."""
    points = math.prod(shape[d] for d in dims)
    return round(5 * math.prod(shape) * math.log2(points)) if points > 1 else 0


def _real_fft_flops(shape: Sequence[int], dims: Sequence[int], *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Half the work, on whichever side is real and so the larger."""
    larger = max(shape, out_shape, key=math.prod)
    return _fft_flops(larger, dims) // 2


_MORE_FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    prefix_attention.operator: _attention_flops,
    aten._fft_c2c: _fft_flops,
    aten._fft_r2c: _real_fft_flops,
    aten._fft_c2r: _real_fft_flops,
    **({} if fused_product is None else {fused_product: _product_flops}),
}
