"""Stop requests: a signal sets a flag, the flag is agreed by all ranks, the loop saves and ends with exit code 85."""

import signal
from collections.abc import Callable, Sequence
from time import monotonic, time
from types import FrameType

import torch
import torch.distributed as dist

from hierlm.errors import LostRunError
from hierlm.lease import Lease, TakenOverError
from hierlm.parallel.messages import team_of

LEASE_POLL_SECONDS = 1.0
"""Between two looks at a shared file system; writers look each time before they write."""

_GOES_ON, _ASKED, _DAMAGED, _TAKEN_OVER = range(4)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Set by SIGTERM, SIGINT, SIGUSR1 or SIGUSR2 on any rank."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self.is_agreed = False
        """Whether all ranks know that they stop."""
        self._lease: Lease | None = None
        self._looked = 0.0
        self._said = monotonic()  # when this rank last said something
        self._pace = 0.0  # and how long after the time before
        self._has_to_end: Callable[[], bool] = lambda: False
        self._damage: Callable[[], str | None] = lambda: None

    def install(self) -> None:
        """Take the signals over; the main thread calls it before the long set-up work."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signal_name = self.signal_name or signal.Signals(number).name

    def watch(self, lease: Lease) -> None:
        """Stop, too, when another attempt takes the run over; the writer rank alone calls it."""
        self._lease = lease

    def end_in_time(self, ends_at: float, *, margin_seconds: Callable[[], float]) -> None:
        """Stop, too, when less than the margin is left until `ends_at`, seconds since 1970."""
        # what is said now is heard a step later
        self._has_to_end = lambda: time() > ends_at - margin_seconds() - self._pace

    def watch_data(self, damage: Callable[[], str | None]) -> None:
        """End, too, when a rank has found data that are not what they should be: `damage` is a line about them."""
        self._damage = damage

    @property
    def seen_here(self) -> bool:
        """Whether this rank has been asked; other ranks may not know yet."""
        return self.signal_name is not None

    def agreed(self, device: torch.device) -> bool:
        """Whether any rank has been asked: every rank calls it at the same point and gets the same answer.

        TakenOverError on every rank when another attempt holds the run, LostRunError when data are damaged: there is
        nothing to save.
        """
        flags = torch.tensor(self.flags(), device=device)
        dist.all_reduce(flags)
        return self.heard(flags.tolist())

    def flags(self) -> list[float]:
        """What this rank has to say, to be added up over ranks by whoever sends it."""
        now = monotonic()
        self._pace, self._said = now - self._said, now
        if self.signal_name is None and self._has_to_end():
            self.signal_name = "the time limit of the job"
        damage = self._damage()
        state = _TAKEN_OVER if self._is_taken_over() else _DAMAGED if damage else _ASKED if self.seen_here else _GOES_ON
        return [float(state == each) for each in (_ASKED, _DAMAGED, _TAKEN_OVER)]

    def heard(self, flags: Sequence[float]) -> bool:
        """What `agreed` says, of the flags of all ranks added up."""
        # what was added up decides, never `signal_name`: a signal may have come here since, which nobody else knows
        asked, damaged, taken_over = flags
        if taken_over:
            raise TakenOverError(self._lease.successor() if self._lease else "another attempt has taken over this run")
        if damaged:
            raise LostRunError(team_of().first_word(self._damage()) or "data are damaged")
        if asked and self.signal_name is None:
            self.signal_name = "another rank's signal"
        self.is_agreed = self.is_agreed or bool(asked)
        return bool(asked)

    def _is_taken_over(self) -> bool:
        if self._lease is None or monotonic() - self._looked < LEASE_POLL_SECONDS:
            return False
        self._looked = monotonic()
        try:
            return not self._lease.is_current()
        except OSError:  # nobody can tell now; nothing can be written without being told
            return False
