"""How fast: time between logged steps, data wait, and the share of the device's peak."""

from dataclasses import dataclass
from time import perf_counter

import torch

from hierlm.plan.devices import BF16_PEAK_FLOPS
from hierlm.plan.matmul_rate import measured_matmul_flops


@dataclass(frozen=True)
class Peak:
    """The matrix-multiply rate of one process's device, and where the figure comes from."""

    flops_per_second: float
    kind: str  # "data-sheet" (the share is MFU) or "measured"


def device_peak(device: torch.device, *, precision: str) -> Peak:
    """The data sheet's figure for a known GPU in bf16, else measured now (a fraction of a second)."""
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        known = next((flops for key, flops in BF16_PEAK_FLOPS.items() if key in name), None)
        if known is not None:
            return Peak(known, "data-sheet")
    return Peak(measured_matmul_flops(device, precision=precision), "measured")


class IntervalTimer:
    """Wall time of the steps since the last logged one, evaluation and saving left out."""

    def __init__(self) -> None:
        self._seconds = self._wait_seconds = 0.0
        self._steps = self._tokens = 0
        self._step_start = perf_counter()

    def start_step(self) -> None:
        """The loop turns to the next step: data wait counts as part of it."""
        self._step_start = perf_counter()

    def end_step(self, *, tokens: int, wait_seconds: float) -> None:
        """The step is done on this rank."""
        self._seconds += perf_counter() - self._step_start
        self._wait_seconds += wait_seconds
        self._steps += 1
        self._tokens += tokens

    def take(self) -> "Interval":
        """What has been measured since the last call."""
        interval = Interval(self._seconds, self._wait_seconds, self._steps, self._tokens)
        self._seconds = self._wait_seconds = 0.0
        self._steps = self._tokens = 0
        return interval


@dataclass(frozen=True)
class Interval:
    """A stretch of steps."""

    seconds: float
    wait_seconds: float
    steps: int
    tokens: int

    @property
    def step_seconds(self) -> float:
        return self.seconds / max(self.steps, 1)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def data_wait_fraction(self) -> float:
        return self.wait_seconds / max(self.seconds, 1e-9)
