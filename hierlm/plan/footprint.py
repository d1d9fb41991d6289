"""What one micro-batch needs of each layer: the record that `hierlm.plan.layer_memory` fills in. Pure python."""

from dataclasses import astuple, dataclass, replace
from typing import TypeVar

R = TypeVar("R", "Footprint", "TensorTraffic")


@dataclass(frozen=True)
class Footprint:
    """Bytes of one layer for one micro-batch, weights and their gradients left out."""

    kept: int  # what its forward pass adds to what stays until the backward pass; its output included
    forward_peak: int  # the most above what stood before its forward pass
    backward_peak: int  # the most above what stood after its forward pass, its output's gradient included
    first_backward_peak: int  # the same where the gradients of its weights are new and stay
    memory: int  # recurrent memory carried to the next segment
    output: int  # what a pipeline boundary behind it sends: the whole stack
    made: int  # results of all its operations, there and back, however short they live
    kernels: int  # how many such results


@dataclass(frozen=True)
class Borrowed:
    """A weight tied to another layer's: a stage that lacks the owner holds one copy for all its borrowers."""

    owner: int
    name: str
    values: int


@dataclass(frozen=True)
class LayerWeights:
    """Weights one tensor-parallel rank holds of a layer."""

    own: int  # values, borrowed weights left out
    borrowed: tuple["Borrowed", ...]
    largest: int  # values of the largest of them


@dataclass(frozen=True)
class TensorTraffic:
    """What one micro-batch asks of a tensor-parallel rank for the others."""

    sent_forward: int  # bytes
    sent_backward: int  # what is computed again included
    remade_flops: int  # products that selective recompute makes again because their outputs are summed in place


@dataclass(frozen=True)
class Profile:
    """One micro-batch through the whole layer list on one tensor-parallel rank."""

    layers: tuple[Footprint, ...]
    weights: tuple[LayerWeights, ...]
    traffic: tuple[TensorTraffic, ...]
    logits: int  # bytes of the logits alone, as far as they are made at once and outlive the loss: 0 when in chunks
    left_at_loss: int  # bytes of what the last layer before the loss leaves on top: the logits, or what makes them
    loss_made: int  # as `made` of a layer: what follows the last one
    loss_kernels: int
    loss_peak: int  # the most above what stood after the last layer, until its backward pass begins
    is_extrapolated: bool  # shapes depend on data: run on real rows

    def extrapolated(self, other: "Profile", *, at: tuple[int, int], rows: int) -> "Profile":
        """For so many rows, where this and `other` are for `at` rows: all but the weights is affine in the rows."""
        here, there = at

        def line(a: int, b: int) -> int:
            return a + (rows - here) * (b - a) // (there - here)

        def lines(ours: tuple[R, ...], theirs: tuple[R, ...]) -> tuple[R, ...]:
            pairs = zip(ours, theirs, strict=True)
            return tuple(type(a)(*map(line, astuple(a), astuple(b))) for a, b in pairs)

        return replace(
            self,
            layers=lines(self.layers, other.layers),
            traffic=lines(self.traffic, other.traffic),
            logits=line(self.logits, other.logits),
            left_at_loss=line(self.left_at_loss, other.left_at_loss),
            loss_made=line(self.loss_made, other.loss_made),
            loss_kernels=line(self.loss_kernels, other.loss_kernels),
            loss_peak=line(self.loss_peak, other.loss_peak),
        )
