"""Steps whose loss or gradient is not finite: they change neither weights nor moments, on no rank of any layout.

What decides is the gradient's global norm, which every rank knows before anything is updated: a NaN on one
micro-batch, stage, slice or data-parallel rank is in it. (So is a norm above 1.8e19, whose square fp32 cannot hold.)
DeepSpeed's optimizers leave the update out by themselves, and where there is none of theirs, ours is told to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from hierlm.optim.phased import Phased
from hierlm.parallel.memory_lanes import MemoryLanes


@dataclass(frozen=True)
class Skipped:
    """Steps left out so far."""

    total: int = 0
    in_a_row: int = 0  # that end with the last step

    def after(self, is_skipped: bool) -> "Skipped":
        """The counts one step later."""
        return Skipped(self.total + 1, self.in_a_row + 1) if is_skipped else Skipped(self.total, 0)


class SkipFlag:
    """Whether the step that is being taken is left out: bool [] on the device, the same on all ranks; nobody waits."""

    def __init__(self, optimizer: Phased, *, device: torch.device) -> None:
        self._optimizer, self._none = optimizer, torch.zeros((), dtype=torch.bool, device=device)
        self.now = self._none

    def clear(self) -> None:
        """A step is about to be taken."""
        self.now = self._none
        self._optimizer.skip_if(self.now)

    def note(self, condition: Tensor) -> None:
        """Let the optimizer change nothing where the condition, bool [], holds."""
        self.now = self.now | condition
        self._optimizer.skip_if(self.now)


def spoiling_if_not_finite(loss: Tensor) -> Tensor:
    """The same loss; one that is not finite makes every gradient behind it NaN, so that the step is left out.

    The gradient of an infinite cross entropy may well be finite (softmax minus one), and would be followed.
    """
    return loss * torch.where(loss.isfinite(), 1.0, math.nan)


def forget_lost_memories(lanes: MemoryLanes, *, num_rows: int, group: dist.ProcessGroup) -> None:
    """Rows whose memory a step has left not finite, on any stage or slice of `group`, begin new streams.

    What they remember would make every later loss NaN. Only a step that is left out leaves such a memory; as nobody
    waits to learn whether it was, every step is asked.
    """
    lost = lanes.rows_not_finite(num_rows)
    dist.all_reduce(lost, op=dist.ReduceOp.MAX, group=group)
    lanes.begin_anew(lost.bool())


def are_finite(tensors: Sequence[Tensor]) -> bool:
    """Whether every value of all is; waits for the device."""
    return bool(torch.stack([tensor.detach().isfinite().all().cpu() for tensor in tensors]).all())
