"""A micro-batch through a stage of `hierlm.parallel`, there and back, watched layer by layer from outside.

Shapes: B rows of a micro-batch, T tokens.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hierlm.nn.inputs import TOKENS, Inputs
from hierlm.nn.layer import Layer, Memory
from hierlm.nn.stream import Stream
from hierlm.parallel.absent_peers import sent_bytes
from hierlm.parallel.groups import Groups
from hierlm.parallel.layer_losses import beside, weighted_loss
from hierlm.parallel.loss_module import LossModule
from hierlm.parallel.recompute import run_layers
from hierlm.parallel.sequence import TokenShares
from hierlm.parallel.tensor import SlicedRow
from hierlm.plan.footprint import Footprint, TensorTraffic
from hierlm.plan.live_bytes import LiveBytes, storage_bytes

MOST_SEGMENTS = 256


class Trace:
    """Marks on the way: a layer begins where it is called, and, on the way back, where its output's gradient is there.

    What happens between two marks belongs to the layer of the first, before and behind all layers to the loss.
    """

    def __init__(self, module: LossModule, *, shares: TokenShares | None, groups: Groups, ends_in_loss: bool) -> None:
        """`ends_in_loss`: the last layer is run by the loss, a few tokens at a time."""
        self._module, self._shares, self._group = module, shares, groups.tensor
        self._layers: Mapping[int, Layer] = module.local_layers
        self._in_loss = max(self._layers) if ends_in_loss else None
        self._live = LiveBytes()
        self._forward: dict[int, tuple[int, int, int]] = {}  # live before, most, live after
        self._backward: dict[int, tuple[int, int]] = {}  # most without and with the gradients of weights
        self._made: dict[int | None, int] = defaultdict(int)
        self._kernels: dict[int | None, int] = defaultdict(int)
        self._sent_forward: dict[int | None, float] = defaultdict(float)
        self._sent_backward: dict[int | None, float] = defaultdict(float)
        self._remade_flops: dict[int, int] = defaultdict(int)
        self._memory = dict.fromkeys(self._layers, 0)
        self._new_memory = dict.fromkeys(self._layers, 0)
        self._output = dict.fromkeys(self._layers, 0)
        self._current: int | None = None  # whose way there or back this is; None: the loss
        self._before, self._sent = 0, 0.0  # live bytes and sent ones where that began
        self._goes_back = False
        self.left_at_loss = self.loss_peak = 0

    @property
    def loss_made(self) -> int:
        """As `made` of a layer: what follows the last one."""
        return self._made[None]

    @property
    def loss_kernels(self) -> int:
        return self._kernels[None]

    def footprint(self, index: int) -> Footprint:
        """Of a layer, after `there_and_back`."""
        before, most, after = self._forward.get(index, (0, 0, 0))
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

    def traffic(self, index: int) -> TensorTraffic:
        """Of a layer, after `there_and_back`; what the loss sends counts with the last one."""
        parts = [index, None] if index == max(self._layers) else [index]
        return TensorTraffic(
            sent_forward=round(sum(self._sent_forward[part] for part in parts)),
            sent_backward=round(sum(self._sent_backward[part] for part in parts)),
            remade_flops=self._remade_flops[index],
        )

    def there_and_back(self, inputs: Inputs) -> None:
        """Tokens int64 [B, T] among them; gradients of weights are counted by whoever knows what becomes of them."""
        tokens, memories = inputs[TOKENS], self._settled_memories(inputs)
        self._watch_layers()
        for parameter in self._module.parameters():
            parameter.register_post_accumulate_grad_hook(self._drop_gradient)
        targets = torch.zeros_like(tokens)
        held = [*self._module.parameters(), *self._module.buffers(), *inputs.values(), targets]
        self._live.ignore([*held, *(tensor for memory in memories for tensor in memory or ())])
        self._mark()
        with self._live:
            nats, lasting, reports = self._module(inputs, targets, memories, None)
            loss = beside(nats.mean(), weighted_loss(reports))
            self._goes_back, self._sent_forward[None] = True, self._newly_sent()
            loss.backward()
            self._end_backward()
        del lasting  # until here, as the lanes hold them until the next segment

    def _watch_layers(self) -> None:
        before_loss = [index for index in self._layers if index != self._in_loss]
        for index in before_loss:
            self._layers[index].register_forward_pre_hook(partial(self._enter, index))
            self._layers[index].register_forward_hook(partial(self._leave, index, index == before_loss[-1]))
        for index, layer in self._layers.items():
            for module in layer.modules():
                if isinstance(module, SlicedRow):
                    module.register_forward_pre_hook(partial(self._multiply, index))

    def _enter(self, index: int, layer: nn.Module, given: Any) -> None:
        if not self._goes_back:  # else it is computed again
            self._end_forward()
            self._current = index

    def _leave(
        self, index: int, is_last: bool, layer: nn.Module, given: Any, left: tuple[Stream, Memory | None]
    ) -> None:
        if self._goes_back:
            return
        (stream, memory) = left
        self._new_memory[index] = storage_bytes(memory or ())
        self._output[index] = self._boundary_bytes(index, stream)
        if stream.hidden.requires_grad:
            stream.hidden.register_hook(partial(self._begin_backward, index))
        if is_last:
            self._end_forward()
            self._current, self.left_at_loss = None, storage_bytes([stream.hidden])

    def _multiply(self, index: int, module: nn.Module, given: tuple[Tensor]) -> None:
        if self._goes_back:
            self._remade_flops[index] += 2 * given[0].numel() * module.get_parameter("weight").shape[0]

    def _boundary_bytes(self, index: int, stream: Stream) -> int:
        """What a pipeline's boundary behind the layer sends: no stage leaves a share of the top."""
        held = sum(level.numel() * level.element_size() for level in stream.levels)
        if self._shares is None or not self._shares.works_on(self._layers[index]):
            return held
        top = stream.hidden
        missing = math.prod(self._shares.whole_shape(top.shape[-1])) - top.numel()
        return held + missing * top.element_size()

    def _end_forward(self) -> None:
        if self._current is not None:
            self._forward[self._current] = (self._before, self._live.peak, self._live.now)
        self._count()
        self._sent_forward[self._current] += self._newly_sent()
        self._mark()

    def _begin_backward(self, index: int, gradient: Tensor) -> None:
        self._end_backward()
        self._current = index

    def _end_backward(self) -> None:
        """What was seen since the last mark belongs to the layer that was being passed, or to the loss."""
        if self._current is None:
            self.loss_peak = self._live.peak - self._before
        else:
            # the new memories of later layers take the place of their old ones, which whoever keeps them counts
            later = sum(size for index, size in self._new_memory.items() if index > self._current)
            self._backward[self._current] = (self._live.peak_alone - later, self._live.peak - later)
        self._count()
        self._sent_backward[self._current] += self._newly_sent()
        self._mark()

    def _count(self) -> None:
        layer = None if self._current is None else self._layers[self._current]
        if layer is not None and any(isinstance(module, nn.RNNBase) for module in layer.modules()):
            return  # one fused kernel, which the meta device takes apart
        self._made[self._current] += self._live.made
        self._kernels[self._current] += self._live.kernels

    def _newly_sent(self) -> float:
        before, self._sent = self._sent, sent_bytes(self._group)
        return self._sent - before

    def _mark(self) -> None:
        self._live.restart()
        self._before, self._sent = self._live.now, sent_bytes(self._group)

    def _drop_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._live.elsewhere += parameter.grad.nbytes
        parameter.grad = None

    @torch.no_grad()
    def _settled_memories(self, inputs: Inputs) -> tuple[Memory | None, ...]:
        """The memories of streams that have been running for long: at their final size."""
        settled: dict[int, Memory | None] = {
            index: self._fresh_memory(layer, inputs[TOKENS]) for index, layer in self._layers.items()
        }
        if all(memory is None for memory in settled.values()):
            return tuple(settled.values())
        stream = Stream.of(inputs)
        for index, layer in self._layers.items():
            for _ in range(MOST_SEGMENTS):
                output, (new,) = run_layers({index: layer}, stream, (settled[index],), shares=self._shares)
                is_settled = _shapes(new) == _shapes(settled[index])
                settled[index] = new
                if is_settled:
                    break
            stream = output
            self._memory[index] = storage_bytes(settled[index] or ())
        return tuple(settled.values())

    def _fresh_memory(self, layer: Layer, tokens: Tensor) -> Memory | None:
        dtype = next((p.dtype for p in layer.parameters()), torch.float32)
        return layer.initial_memory(len(tokens), device=tokens.device, dtype=dtype)


def _shapes(memory: Memory | None) -> list[Any]:
    return [] if memory is None else [tensor.shape for tensor in memory]
