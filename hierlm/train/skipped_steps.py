"""A step whose loss or gradient is not finite is left out; too many of them in a row end the attempt."""

from typing import Any

from hierlm.config.run_config import RunConfig
from hierlm.errors import LostRunError
from hierlm.parallel.engine import Measured
from hierlm.train.loop import Completed
from hierlm.train.record.console import Console


class SkippedStepsHook:
    """After the log, so that the last step is in it; before a checkpoint, so that a new attempt tries the steps again.

    Every rank has the same counts, and ends together with the others.
    """

    def __init__(self, *, config: RunConfig[Any], console: Console) -> None:
        self._most, self._console = config.train.max_skipped_steps, console

    def before_step(self) -> None:
        """Nothing to do."""

    def after_step(self, completed: Completed) -> None:
        """What comes of it is not known yet."""

    def on_measured(self, completed: Completed, measured: Measured) -> None:
        """LostRunError when this step makes too many."""
        if not measured.is_skipped:
            return
        counts = measured.skipped
        if counts.in_a_row >= self._most:
            raise LostRunError(
                f"step {completed.step}: loss or gradient were not finite in {counts.in_a_row} steps in a row "
                f"(train.max_skipped_steps: {self._most}), {counts.total} in all; the weights are those before them: "
                "lower the learning rate or gradient_clip, look at the data, or allow more"
            )
        self._console.say(
            f"step {completed.step} skipped: loss or gradient are not finite | {counts.in_a_row} in a row, "
            f"{counts.total} in all | weights and moments are left as they were"
        )

    def on_stop(self, *, step: int) -> None:
        """The counts are saved with the checkpoint."""
