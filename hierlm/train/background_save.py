"""A save beside training: a thread of every rank commits what was copied, and talks to the others on its own group."""

import threading
from collections.abc import Callable

from hierlm.checkpoint.commit import Saved
from hierlm.checkpoint.manifest import Why
from hierlm.lease import TakenOverError

SECONDS_AFTER_A_FAILURE = 60.0
"""How long an attempt that fails waits for the save in flight; the ranks of a dead one would never agree."""


class BackgroundSave:
    """One save on its way. Its outcome is the same on every rank, only not at the same time."""

    def __init__(self, save: Callable[[], Saved], *, step: int, why: Why, blocking_seconds: float) -> None:
        self.step, self.why, self.blocking_seconds = step, why, blocking_seconds
        self._save = save
        self._saved: Saved | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"save of step {step}", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether `result` returns at once."""
        return not self._thread.is_alive()

    @property
    def is_taken_over(self) -> bool:
        """Whether another attempt has ended it."""
        return self.is_done and isinstance(self._error, TakenOverError)

    def result(self) -> Saved:
        """Wait for the end; raises what `save_checkpoint` has raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._saved is not None
        return self._saved

    def give_time(self, seconds: float) -> None:
        """Wait for the end, but not for ever."""
        self._thread.join(timeout=seconds)

    def _run(self) -> None:
        try:
            self._saved = self._save()
        except BaseException as error:
            self._error = error
