"""Bytes one rank sends in one optimizer step, by the ring algorithms of NCCL and gloo.

An all-reduce of n bytes over g ranks sends 2 n (g - 1) / g, a reduce-scatter or all-gather n (g - 1) / g
(Patarasuk & Yuan 2009). ZeRO 1 and 2 scatter gradients once a step and gather weights once, 2 n values; ZeRO 3
scatters and gathers twice in every micro-batch, 3 n (Rajbhandari et al. 2020, 1910.02054, section 7). With secondary
shards inside a node (ZeRO++ hpZ, Wang et al. 2023, 2306.10209, section 4.2) the second gather stays among those.
"""

from dataclasses import asdict, dataclass

from hierlm.plan.footprint import Profile
from hierlm.plan.zero_memory import MOST_GATHERED, Kind


@dataclass(frozen=True)
class Traffic:
    """Bytes sent by one rank of a stage per optimizer step."""

    gradients: int  # summed over data-parallel ranks
    weights: int  # gathered from data-parallel ranks
    tensor: int  # summed over tensor-parallel ranks, forward, backward and recomputed; boundaries gathered behind
    boundary: int  # to the next stage and back to the one before
    secondary: int = 0  # of the weights: what ranks with secondary shards gather among themselves

    @property
    def data(self) -> int:
        return self.gradients + self.weights + self.secondary

    def document(self) -> dict[str, int]:
        """As plain data."""
        return asdict(self)


def traffic(kind: Kind, *, profile: Profile, layers: range, values: int, tp_degree: int = 1) -> Traffic:
    """Of a stage that holds `layers` with `values` weights on a rank; `profile` is of one micro-batch."""
    of_layers = [profile.traffic[index] for index in layers]
    first, last = layers.start > 0, layers.stop < len(profile.layers)
    boundary = first * profile.layers[layers.start - 1].output + last * profile.layers[layers.stop - 1].output
    whole = kind.micro_batches * boundary if kind.pipeline else 0
    sliced = kind.micro_batches * sum(layer.sent_forward + layer.sent_backward for layer in of_layers)
    weights, secondary = _weights(kind, values)
    return Traffic(
        gradients=_gradients(kind, values),
        weights=weights,
        tensor=sliced + whole * (tp_degree - 1) // tp_degree,  # each sends a slice, and gathers what came
        boundary=whole // tp_degree,
        secondary=secondary,
    )


def _gradients(kind: Kind, values: int) -> int:
    """Summed whole where nothing is partitioned, else scattered."""
    times = kind.micro_batches if kind.stage == 3 else 1
    return int(times * _ring(kind.dp_degree) * values * kind.gradient_bytes * (2 if kind.stage == 0 else 1))


def _weights(kind: Kind, values: int) -> tuple[int, int]:
    """(Over all data-parallel ranks, among those with secondary shards)."""
    once = _ring(kind.dp_degree) * values * kind.working
    if kind.stage < 3:
        return (int(once) if kind.stage else 0), 0
    again = values > MOST_GATHERED  # few enough stay gathered from the forward pass on
    if again and kind.secondary_degree > 1:
        among = _ring(kind.secondary_degree) * values * kind.working
        return int(kind.micro_batches * once), int(kind.micro_batches * among)
    return int(kind.micro_batches * once * (2 if again else 1)), 0


def _ring(degree: int) -> float:
    return (degree - 1) / degree
