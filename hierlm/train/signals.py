"""Stop requests: a signal sets a flag, the flag is agreed by all ranks, the loop saves and ends with exit code 85."""

import signal
from types import FrameType

import torch
import torch.distributed as dist

STOPPED_EXIT_CODE = 85
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Set by SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 on any rank."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def install(self) -> None:
        """Take the signals over; the main thread calls it before the long set-up work."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name

    @property
    def seen_here(self) -> bool:
        """Whether this rank has been asked; other ranks may not know yet."""
        return self.signal_name is not None

    def agreed(self, device: torch.device) -> bool:
        """Whether any rank has been asked: every rank calls it at the same point and gets the same answer."""
        flag = torch.tensor([int(self.seen_here)], device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        # what was reduced decides, never `signal_name`: a signal may have come here since, which nobody else knows
        agreed = bool(flag.item())
        if agreed and self.signal_name is None:
            self.signal_name = "another rank's signal"
        return agreed
