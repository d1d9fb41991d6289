"""Bytes one rank sends in one optimizer step, by the ring algorithms of NCCL and gloo.

An all-reduce of n bytes over g ranks sends 2 n (g - 1) / g, a reduce-scatter or all-gather n (g - 1) / g
(Patarasuk & Yuan 2009).
"""

from dataclasses import asdict, dataclass

from hierlm.plan.footprint import Profile
from hierlm.plan.zero_memory import MOST_GATHERED, Kind


@dataclass(frozen=True)
class Traffic:
    """Bytes sent by one rank of a stage per optimizer step."""

    gradients: int  # summed over data-parallel ranks
    weights: int  # gathered from data-parallel ranks
    tensor: int  # summed over tensor-parallel ranks, forward, backward and recomputed
    boundary: int  # to the next stage and back to the one before

    @property
    def data(self) -> int:
        return self.gradients + self.weights

    def document(self) -> dict[str, int]:
        """As plain data."""
        return asdict(self)


def traffic(kind: Kind, *, profile: Profile, layers: range, values: int) -> Traffic:
    """Of a stage that holds `layers` with `values` weights on a rank; `profile` is of one micro-batch."""
    ring = (kind.dp_degree - 1) / kind.dp_degree
    reductions = kind.micro_batches if kind.stage == 3 else 1  # after every backward pass
    per_reduction = ring * values * kind.reduced * (1 if kind.stage else 2)
    of_layers = [profile.traffic[index] for index in layers]
    first, last = layers.start > 0, layers.stop < len(profile.layers)
    boundary = first * profile.layers[layers.start - 1].output + last * profile.layers[layers.stop - 1].output
    return Traffic(
        gradients=int(reductions * per_reduction),
        weights=int(ring * values * kind.working * _gathers(kind, values)) if kind.stage >= 1 else 0,
        tensor=kind.micro_batches * sum(layer.sent_forward + layer.sent_backward for layer in of_layers),
        boundary=kind.micro_batches * boundary if kind.pipeline else 0,
    )


def _gathers(kind: Kind, values: int) -> int:
    """How often the weights are gathered in a step."""
    if kind.stage < 3:
        return 1
    passes = 2 if values > MOST_GATHERED else 1  # few enough stay gathered from the forward pass on
    return passes * kind.micro_batches
