"""What a model is: a flat list of pure layers over one carry.

Shapes: B batch, T tokens of a level, D hidden_dim, V vocab_size.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hierlm.nn.basic.dropout import number_sites
from hierlm.nn.stream import Stream

Memory = tuple[Tensor, ...]
"""Recurrent memory of one layer: tensors whose first dimension is the batch row (lane).

Where those of two lanes differ in another dimension, the one of size 1 stands for as many equal values.
"""

Cache = tuple[Any, ...]
"""What a layer keeps between calls of `decode`: keys and values, an unfinished group, a count."""


class StepContext(NamedTuple):
    """What a layer may know of time: all of it a pure function of the step, equal on every rank."""

    step: int
    seed: int
    switches: dict[str, object]  # the phase's `model:` part, merged over the model's own values


class Layer(nn.Module):
    """`(stream, memory) -> (stream, memory)`: stores nothing between calls, so recompute cannot update memory twice."""

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        raise TypeError(f"{type(self).__name__} does not define forward")

    def initial_memory(self, batch_size: int, *, device: torch.device, dtype: torch.dtype) -> Memory | None:
        """Memory of a stream that has seen nothing; None for a memoryless layer."""
        return None

    def from_checkpoint(self, memory: Memory) -> Memory:
        """What a checkpoint holds of the memory, on the CPU, as this version has it."""
        return memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        """Cached generation: every level of `stream` holds only what is new since the call before, perhaps nothing.

        `cache` is None at the start of a text. Equal to `forward` over the whole text, for any cut into calls.
        """
        raise TypeError(f"{type(self).__name__} does not decode from a cache")

    def begin_step(self, context: StepContext) -> None:
        """Take the train-time switches and keyed random draws of this step; called before the forward passes."""

    @property
    def drawn_shape(self) -> object:
        """What the switches and draws of a step say about the shapes this layer leaves; None where they never do.

        While it and `training` stay the same, levels of the same shapes in give levels of the same shapes out. Stages
        of a pipeline agree on shapes only when something changes: what is not told here they do not hear of.
        """
        return None


LayerSpec = Callable[[], Layer]
"""A layer not built yet, usually `functools.partial(Block, ...)`: a pipeline stage builds only its own."""


class SharedWeights(NamedTuple):
    """Layers whose named parameter is one tensor: `owner` (a layer index) keeps it, `user` reads it."""

    owner: int
    owner_parameter: str
    user: int
    user_parameter: str


def layer_seed(seed: int, index: int) -> int:
    """The generator seed of layer `index`: weights do not depend on which process builds the layer."""
    return (seed * 1_000_003 + index * 7_919 + 17) % (2**63 - 1)


def build_layer(spec: LayerSpec, *, seed: int, index: int) -> Layer:
    """Build one layer with its own seed, leaving the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(layer_seed(seed, index))
        layer = spec()
    number_sites(layer)
    return layer


def fold(
    layers: Sequence[Layer], stream: Stream, memories: Sequence[Memory | None]
) -> tuple[Stream, tuple[Memory | None, ...]]:
    """Run the layers in order: the single-device forward pass and that of a pipeline stage."""
    updated = []
    for layer, memory in zip(layers, memories, strict=True):
        stream, new_memory = layer(stream, memory)
        updated.append(new_memory)
    return stream, tuple(updated)
