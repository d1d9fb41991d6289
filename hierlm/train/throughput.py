"""How fast: time between logged steps, data wait, and the share of the device's peak."""

from dataclasses import dataclass
from time import perf_counter

import torch

_BF16_PEAK_FLOPS = {  # dense, without sparsity; the makers' data sheets
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "V100": 125e12,
}


@dataclass(frozen=True)
class Peak:
    """The matrix-multiply rate of one process's device, and where the figure comes from."""

    flops_per_second: float
    kind: str  # "data-sheet" (the share is MFU) or "measured"


def device_peak(device: torch.device, *, precision: str) -> Peak:
    """The data sheet's figure for a known GPU in bf16, else measured now (a fraction of a second)."""
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        known = next((flops for key, flops in _BF16_PEAK_FLOPS.items() if key in name), None)
        if known is not None:
            return Peak(known, "data-sheet")
    return Peak(_measured_matmul_flops(device, precision=precision), "measured")


def _measured_matmul_flops(device: torch.device, *, precision: str, size: int = 1024, repeats: int = 4) -> float:
    """The best of a few square products in the training precision, with the threads this process trains with."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(size, size, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        start = perf_counter()
        product = left @ left
        _wait(product)
        best = min(best, perf_counter() - start)
    return 2 * size**3 / best


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


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
