"""A rank whose device is slow makes all others wait, and no clock of a step shows which: so each does a fixed piece of
work alone now and then, and the times are compared.
"""

from collections.abc import Sequence
from statistics import median_low
from time import perf_counter

import torch

from hierlm.train.watch.node_beats import Heartbeat

PROBE_EVERY_SECONDS = 60.0
SLOW = 1.5
"""Times the median rank's."""
PATIENCE = 3
"""Probes in a row before a rank is called slow: other users of a node come and go."""

_SIDE, _REPEATS = 512, 3


def probe(device: torch.device) -> float:
    """Seconds of the quickest of a few products of square matrices on this device."""
    left = torch.ones(_SIDE, _SIDE, device=device)
    times = []
    for _ in range(_REPEATS):
        started = perf_counter()
        product = left @ left
        product[0, 0].item()  # waits for the device
        times.append(perf_counter() - started)
    return min(times)


class SlowRanks:
    """Remembers how often each rank was slow in a row."""

    def __init__(self) -> None:
        self._times: dict[int, int] = {}

    def observe(self, beats: Sequence[Heartbeat]) -> list[str]:
        """A line for each rank that has just been slow for the `PATIENCE`th time in a row."""
        probed = {beat.rank: (beat, beat.probe_seconds) for beat in beats if beat.probe_seconds is not None}
        usual = median_low([seconds for _, seconds in probed.values()]) if probed else 0.0
        slow = {rank for rank, (_, seconds) in probed.items() if seconds > SLOW * usual}
        self._times = {rank: self._times.get(rank, 0) + 1 for rank in slow}
        return [
            f"warning: {beat.place} is slow: {1e3 * seconds:.1f} ms for what the median rank does in {1e3 * usual:.1f}"
            for rank, (beat, seconds) in probed.items()
            if self._times.get(rank) == PATIENCE
        ]
