"""What each layer keeps for the backward pass and needs on the way, seen by running the layer list once there and back.

It runs on the meta device, so nothing is allocated and the size does not matter. Layers whose shapes depend on the data
cannot run there: such a model runs on one row of random tokens, and more rows are taken for as many times that.

Shapes: B rows of a micro-batch, T tokens.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hierlm import models
from hierlm.models.assembly import input_specs, layer_specs, shared_weights
from hierlm.models.config import ModelConfig
from hierlm.models.weightless import alone
from hierlm.nn.inputs import Inputs, neutral
from hierlm.nn.layer import Layer, Memory, SharedWeights, StepContext
from hierlm.nn.stream import Stream
from hierlm.parallel.recompute import Recompute, run_layers
from hierlm.phases.config import PhaseConfig
from hierlm.plan.attention_kernel import fused_attention
from hierlm.plan.footprint import Borrowed, Footprint, LayerWeights, Profile, TensorTraffic
from hierlm.plan.live_bytes import LiveBytes, storage_bytes
from hierlm.plan.loss_memory import loss_of
from hierlm.plan.representatives import representatives
from hierlm.plan.slices import ColumnSlice, EmbeddingSlice, HeadSlice, RowSlice, slice_layers
from hierlm.plan.token_shares import LoneShares

MOST_SEGMENTS = 256


@dataclass(frozen=True)
class Setting:
    """What decides a profile."""

    model: ModelConfig
    phase: PhaseConfig
    rows: int
    tp_degree: int
    recompute: Recompute
    bf16: bool
    on_gpu: bool
    sequence_parallel: bool = False
    loss_chunk_tokens: int | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal where the profile of one model is."""
        of_phase = (self.phase.sequence_length, repr(sorted(self.phase.model.items())))
        how = (self.recompute, self.bf16, self.on_gpu, self.sequence_parallel, self.loss_chunk_tokens)
        return (*of_phase, self.rows, self.tp_degree, *how)


def profile(setting: Setting) -> Profile:
    """Run the layer list of a setting; ValueError where the tensor degree does not divide a width."""
    try:
        return _run(setting, device=torch.device("meta"), rows=setting.rows)
    except RuntimeError as error:
        if "meta" not in str(error).lower():
            raise
    one = _run(setting, device=torch.device("cpu"), rows=1)
    return replace(one.extrapolated(_nothing(one), at=(1, 0), rows=setting.rows), is_extrapolated=True)


def _nothing(like: Profile) -> Profile:
    """The profile of no rows."""
    return replace(
        like,
        layers=tuple(Footprint(0, 0, 0, 0, 0, 0, 0, kernels=layer.kernels) for layer in like.layers),
        traffic=tuple(TensorTraffic(0, 0, 0) for _ in like.traffic),
        logits=0,
        left_at_loss=0,
        loss_made=0,
        loss_peak=0,
    )


def _run(setting: Setting, *, device: torch.device, rows: int) -> Profile:
    specs = layer_specs(setting.model)
    chosen = representatives(specs)
    run = sorted({*chosen, *(share.owner for share in shared_weights(setting.model))})
    layers = {index: alone(specs[index], index=index, device=device) for index in run}
    borrowed = _share(layers, shared_weights(setting.model))
    slice_layers(layers, models.architecture(setting.model.arch).TENSOR_PLAN, degree=setting.tp_degree)
    for layer in layers.values():
        layer.bfloat16() if setting.bf16 else layer
        layer.train()
        layer.begin_step(_context(setting))
    shares = _shares(setting, layers)
    inputs = partial(neutral, input_specs(setting.model))
    trace = _Trace(layers, device=device, on_gpu=setting.on_gpu, shares=shares, inputs=inputs)
    tokens = torch.zeros(rows, setting.phase.sequence_length, dtype=torch.int64, device=device)
    if device.type != "meta":
        tokens.random_(setting.model.vocab_size, generator=torch.Generator().manual_seed(0))
    with fused_attention(on_gpu=setting.on_gpu):
        trace.there_and_back(tokens, recompute=setting.recompute, chunk_tokens=setting.loss_chunk_tokens)
    weights = {i: _weights(layer, borrowed.get(i, [])) for i, layer in layers.items()}
    traffic = {i: _traffic(layer, shares, num_tokens=tokens.numel()) for i, layer in layers.items()}
    return Profile(
        layers=tuple(trace.footprint(index) for index in chosen),
        weights=tuple(weights[index] for index in chosen),
        traffic=tuple(traffic[index] for index in chosen),
        logits=0 if setting.loss_chunk_tokens else trace.left_at_loss,
        left_at_loss=trace.left_at_loss,
        loss_made=trace.loss_made,
        loss_kernels=trace.loss_kernels,
        loss_peak=trace.loss_peak,
        is_extrapolated=False,
    )


def _share(layers: dict[int, Layer], shares: Sequence[SharedWeights]) -> dict[int, list[SharedWeights]]:
    """Tie what the model ties; layer -> what it borrows."""
    borrowed: dict[int, list[SharedWeights]] = {}
    for share in shares:
        if share.user in layers:
            holder, _, name = share.user_parameter.rpartition(".")
            weight = layers[share.owner].get_parameter(share.owner_parameter)
            setattr(layers[share.user].get_submodule(holder), name, weight)
            borrowed.setdefault(share.user, []).append(share)
    return borrowed


def _context(setting: Setting) -> StepContext:
    model = setting.model
    own = {name: getattr(model, name) for name in model.train_switches()}
    return StepContext(0, 0, {**own, **setting.phase.model})


def _weights(layer: Layer, shares: Sequence[SharedWeights]) -> LayerWeights:
    sizes = {name: p.numel() for name, p in layer.named_parameters(remove_duplicate=False)}
    borrowed = tuple(Borrowed(s.owner, s.owner_parameter, sizes[s.user_parameter]) for s in shares)
    return LayerWeights(
        own=sum(sizes.values()) - sum(weight.values for weight in borrowed),
        borrowed=borrowed,
        largest=max(sizes.values(), default=0),
    )


def _shares(setting: Setting, layers: dict[int, Layer]) -> LoneShares | None:
    if not setting.sequence_parallel or setting.tp_degree == 1:
        return None
    shares = LoneShares(degree=setting.tp_degree, sums_whole=not setting.on_gpu)
    shares.take(layers)
    return shares


def _traffic(layer: Layer, shares: LoneShares | None, *, num_tokens: int) -> TensorTraffic:
    slices = [module for module in layer.modules() if isinstance(module, ColumnSlice | RowSlice | EmbeddingSlice)]
    for head in (module for module in slices if isinstance(module, HeadSlice)):
        head.summed_backward = num_tokens * head.weight.shape[1]  # in chunks it has seen the last of them last
    gathers = TensorTraffic(0, 0, 0) if shares is None else shares.traffic_of_gathers(layer)
    return TensorTraffic(
        summed_forward=gathers.summed_forward + sum(module.summed_forward for module in slices),
        summed_backward=gathers.summed_backward + sum(module.summed_backward for module in slices),
        remade_flops=sum(module.forward_flops for module in slices if isinstance(module, RowSlice)),
    )


class _Trace:
    """Marks on the way through the layers and back."""

    def __init__(
        self,
        layers: dict[int, Layer],
        *,
        device: torch.device,
        on_gpu: bool,
        shares: LoneShares | None,
        inputs: Callable[[Tensor], Inputs],
    ) -> None:
        self._layers, self._device, self._on_gpu, self._shares = layers, device, on_gpu, shares
        self._inputs = inputs
        self._live = LiveBytes()
        self._forward: dict[int, tuple[int, int, int]] = {}  # live before, most, live after
        self._backward: dict[int, tuple[int, int]] = {}  # most without and with the gradients of weights
        self._made: dict[int, int] = defaultdict(int)
        self._kernels: dict[int, int] = defaultdict(int)
        self._memory: dict[int, int] = {}
        self._new_memory: dict[int, int] = {}
        self._output: dict[int, int] = {}
        self._current: int | None = None
        self.left_at_loss = self.loss_peak = self.loss_made = self.loss_kernels = 0
        self._before_loss = 0

    def footprint(self, index: int) -> Footprint:
        before, most, after = self._forward[index]
        alone, with_gradients = self._backward.get(index, (after, after))
        return Footprint(
            kept=after - before,
            forward_peak=most - before,
            backward_peak=max(alone - after, 0),
            first_backward_peak=max(with_gradients - after, 0),
            memory=self._memory[index],
            output=self._output[index],
            made=self._made[index],
            kernels=self._kernels[index],
        )

    def there_and_back(self, tokens: Tensor, *, recompute: Recompute, chunk_tokens: int | None) -> None:
        """With `chunk_tokens` the last layer, a Head, is run by the loss."""
        parameters = {p for layer in self._layers.values() for p in layer.parameters()}
        for parameter in parameters:  # gradients of weights are counted by whoever knows what becomes of them
            parameter.register_post_accumulate_grad_hook(self._drop_gradient)
        memories = self._settled_memories(tokens)
        held = [*parameters, *(b for layer in self._layers.values() for b in layer.buffers()), tokens]
        self._live.ignore(held)
        self._live.ignore(tensor for memory in memories.values() for tensor in memory or ())
        with self._live:
            loss = self._forward_pass(tokens, memories, recompute, chunk_tokens)
            loss.backward()
            self._end_backward()

    def _forward_pass(
        self, tokens: Tensor, memories: dict[int, Memory | None], recompute: Recompute, chunk_tokens: int | None
    ) -> Tensor:
        stream, new_memories = Stream.of(self._inputs(tokens)), []
        head = max(self._layers)
        for index, layer in self._layers.items():
            before = self._mark()
            if index == head and chunk_tokens is not None:
                self._skip(index)
                continue
            how: dict[str, Any] = {"recompute": recompute, "shares": self._shares}
            stream, (memory,) = run_layers({index: layer}, stream, (memories[index],), **how)
            new_memories.append(None if memory is None else tuple(tensor.detach() for tensor in memory))
            self._new_memory[index] = storage_bytes(memory or ())
            self._forward[index] = (before, self._live.peak, self._live.now)
            self._count(index)
            self._output[index] = sum(level.numel() * level.element_size() for level in stream.levels)
            self._output[index] += 0 if self._shares is None else self._shares.missing_bytes(stream)
            self._watch(stream.hidden, index)
        stream = stream if self._shares is None else self._shares.whole(stream)
        self._before_loss = self._mark()
        self.left_at_loss = storage_bytes([stream.hidden])
        loss = loss_of(stream, head=self._layers[head], chunk_tokens=chunk_tokens, on_gpu=self._on_gpu)
        self._lasting = new_memories  # held by the lanes until the next segment
        return loss

    def _skip(self, index: int) -> None:
        """A layer that is part of the loss: what it needs is the loss's."""
        self._forward[index] = (self._live.now,) * 3
        self._new_memory[index] = self._output[index] = 0

    def _watch(self, hidden: Tensor, index: int) -> None:
        """The backward pass of a layer begins when the gradient of its output is there."""

        def begins(_: Tensor) -> None:
            self._end_backward()
            self._current = index

        if hidden.requires_grad:
            hidden.register_hook(begins)

    def _end_backward(self) -> None:
        """What was seen since the last mark belongs to the layer that was being passed, or to the loss."""
        if self._current is None:
            self.loss_peak = self._live.peak - self._before_loss
            self.loss_made, self.loss_kernels = self._live.made, self._live.kernels
        else:
            # the new memories of later layers take the place of their old ones, which whoever keeps them counts
            later = sum(size for index, size in self._new_memory.items() if index > self._current)
            self._backward[self._current] = (self._live.peak_alone - later, self._live.peak - later)
            self._count(self._current)
        self._mark()

    def _count(self, index: int) -> None:
        if any(isinstance(module, nn.RNNBase) for module in self._layers[index].modules()):
            return  # one fused kernel, which the meta device takes apart
        self._made[index] += self._live.made
        self._kernels[index] += self._live.kernels

    def _drop_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._live.elsewhere += parameter.grad.nbytes
        parameter.grad = None

    def _mark(self) -> int:
        self._live.restart()
        return self._live.now

    @torch.no_grad()
    def _settled_memories(self, tokens: Tensor) -> dict[int, Memory | None]:
        """The memories of streams that have been running for long: at their final size."""
        settled: dict[int, Memory | None] = dict.fromkeys(self._layers)
        self._memory = dict.fromkeys(self._layers, 0)
        if all(self._fresh_memory(layer, len(tokens)) is None for layer in self._layers.values()):
            return settled
        stream = Stream.of(self._inputs(tokens))
        for index, layer in self._layers.items():
            memory = self._fresh_memory(layer, len(tokens))
            for _ in range(MOST_SEGMENTS):
                output, new = layer(stream, memory)
                is_settled = _shapes(new) == _shapes(memory)
                memory = None if new is None else tuple(tensor.detach() for tensor in new)
                if is_settled:
                    break
            stream, settled[index] = output, memory
            self._memory[index] = storage_bytes(memory or ())
        return settled

    def _fresh_memory(self, layer: Layer, num_rows: int) -> Memory | None:
        dtype = next((p.dtype for p in layer.parameters()), torch.float32)
        return layer.initial_memory(num_rows, device=self._device, dtype=dtype)


def _shapes(memory: Memory | None) -> list[Any]:
    return [] if memory is None else [tensor.shape for tensor in memory]
