"""Bytes one rank sends in one optimizer step, by the ring algorithms of NCCL and gloo.

An all-reduce of n bytes over g ranks sends 2 n (g - 1) / g, a reduce-scatter or all-gather n (g - 1) / g
(Patarasuk & Yuan 2009). ZeRO 1 and 2 scatter gradients once a step and gather weights once, 2 n values; ZeRO 3
scatters and gathers twice in every micro-batch, 3 n (Rajbhandari et al. 2020, 1910.02054, section 7).
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

    @property
    def data(self) -> int:
        return self.gradients + self.weights

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
    return Traffic(
        gradients=_gradients(kind, values),
        weights=_weights(kind, values),
        tensor=sliced + whole * (tp_degree - 1) // tp_degree,  # each sends a slice, and gathers what came
        boundary=whole // tp_degree,
    )


def _gradients(kind: Kind, values: int) -> int:
    """Summed whole where nothing is partitioned, else scattered."""
    times = kind.micro_batches if kind.stage == 3 else 1
    return int(times * _ring(kind.dp_degree) * values * kind.gradient_bytes * (2 if kind.stage == 0 else 1))


def _weights(kind: Kind, values: int) -> int:
    """Gathered once where the update alone is partitioned, else in every micro-batch."""
    once = _ring(kind.dp_degree) * values * kind.working
    if kind.stage < 3:
        return int(once) if kind.stage else 0
    again = values > MOST_GATHERED  # few enough stay gathered from the forward pass on
    return int(kind.micro_batches * once * (2 if again else 1))


def _ring(degree: int) -> float:
    return (degree - 1) / degree
