"""A Transformer-XL layer that training may skip, and whose heads may look through each other's keys (2311.08123).

Shapes: B batch, T tokens, H heads. One draw per layer and step, the same for every row and every rank.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hierlm.nn.attention.relative_attention import Sight, consecutive_sight, gapped_sight
from hierlm.nn.layer import Cache, Memory, StepContext
from hierlm.nn.memory.block import SegmentBlock
from hierlm.nn.memory.slots import SegmentMemory
from hierlm.nn.stream import Stream

LayerSkip = Literal["ramp", "uniform", "off"]


def keyed_generator(*, seed: int, name: str, step: int) -> torch.Generator:
    """A generator that depends on nothing but its key, so that a resumed run and every rank draw the same."""
    digest = hashlib.blake2b(f"{seed}/{name}/{step}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") % 2**63)


def skip_probability(*, kind: LayerSkip, probability: float, layer: int, num_layers: int) -> float:
    """p_l: `ramp` = probability * l / L, but 0 for the last layer; `uniform` = probability for every layer."""
    if kind == "off" or (kind == "ramp" and layer == num_layers - 1):
        return 0.0
    return probability if kind == "uniform" else probability * layer / num_layers


@dataclass(frozen=True)
class Place:
    """Where a layer stands among its kind: keys its draws."""

    layer: int
    num_layers: int
    num_heads: int


class PassWithZeroGradient(torch.autograd.Function):
    """Its first argument, bit for bit; what the second one depends on gets a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, unused: Tensor) -> Tensor:
        ctx.unused_shape = unused.shape
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        return gradients[0], gradients[0].new_zeros(ctx.unused_shape)


class CrossHeadBlock(SegmentBlock):
    """Skipped: the stream passes and the memory is retained. Otherwise, perhaps, heads are permuted. Training only."""

    def __init__(self, *, place: Place, relative_shift: bool, **block: object) -> None:
        super().__init__(**block)  # type: ignore[arg-type]
        self.place = place
        self.relative_shift = relative_shift
        self.is_skipped = False
        self.head_order: Tensor | None = None

    def begin_step(self, context: StepContext) -> None:
        """Every draw is made whatever it decides, so a phase that changes a probability moves no other draw."""
        super().begin_step(context)
        switches = context.switches
        name = f"cross_head_block.{self.place.layer}"
        generator = keyed_generator(seed=context.seed, name=name, step=context.step)
        skip_draw, order_draw = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        order = torch.randperm(self.place.num_heads, generator=generator)
        probability = skip_probability(
            kind=switches.get("layer_skip", "off"),  # type: ignore[arg-type]
            probability=float(switches.get("skip_probability", 0.0)),  # type: ignore[arg-type]
            layer=self.place.layer,
            num_layers=self.place.num_layers,
        )
        self.is_skipped = skip_draw < probability
        is_crossed = order_draw < float(switches.get("cross_head_probability", 0.0))  # type: ignore[arg-type]
        self.head_order = order if is_crossed else None

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        past, x = self._past(memory, like=stream.hidden), stream.hidden
        if self.training and self.is_skipped:
            passed = self.output_dropout(self._passed(x))
            return stream.with_hidden(passed), past.resized(self.memory_length).after(x.shape[1])
        order = self.head_order.to(x.device) if self.training and self.head_order is not None else None
        hidden = self.block(x, past.hidden, self._sight(past, x.shape[1]), head_order=order)
        return stream.with_hidden(self.output_dropout(hidden)), past.with_segment(x, length=self.memory_length)

    def _passed(self, x: Tensor) -> Tensor:
        """x as it is. The weights get gradients of zero, from a run over a single token.

        Without one, ZeRO-3 would use the gradient of an earlier step and a plain optimizer would leave out the step.
        """
        filled = torch.ones(1, 0, dtype=torch.bool, device=x.device)
        unused = self.block(x[:1, :1].detach(), x[:1, :0], consecutive_sight(filled, 1))
        return PassWithZeroGradient.apply(x, unused.sum())

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        """Without the relative shift a position means something else in every call: then from the inputs."""
        return super().decode(stream, cache) if self.relative_shift else self(stream, cache)

    def _sight(self, past: SegmentMemory, num_queries: int) -> Sight:
        """Evaluation never skips, so its slots follow each other."""
        if self.relative_shift and not self.training:
            return super()._sight(past, num_queries)
        sight = gapped_sight(past, num_queries)
        return self._as_evaluated(sight if self.relative_shift else sight.measured_from_last_query())
