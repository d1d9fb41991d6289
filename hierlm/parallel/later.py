"""Numbers on their way from all ranks to this process: sent now, read when there was time to arrive.

On a GPU the sum and the copy to the host run on a stream of their own, so that reading waits for them alone and not
for what has been started since.
"""

from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor


class Later:
    """`summed` [n] is added up over all ranks, in place; `own` [m] is this rank's. Every rank makes one alike."""

    def __init__(self, summed: Tensor, own: Tensor) -> None:
        self._num_summed = len(summed)
        if summed.device.type != "cuda":
            self._parts, self._work = (summed, own), dist.all_reduce(summed, async_op=True)
            self._arrived: torch.cuda.Event | None = None
            return
        here, side = torch.cuda.current_stream(summed.device), _side_stream(summed.device)
        work = dist.all_reduce(summed, async_op=True)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            work.wait()
            self._host = torch.empty(len(summed) + len(own), dtype=summed.dtype, pin_memory=True)
            self._host.copy_(torch.cat((summed, own)), non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(side)
        for tensor in (summed, own):
            tensor.record_stream(side)

    def read(self) -> tuple[list[float], list[float]]:
        """(the sums, this rank's own), waited for."""
        if self._arrived is None:
            self._work.wait()
            summed, own = self._parts
            return summed.tolist(), own.tolist()
        self._arrived.synchronize()
        numbers = self._host.tolist()
        return numbers[: self._num_summed], numbers[self._num_summed :]


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
