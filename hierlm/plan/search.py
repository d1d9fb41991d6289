"""The fastest layouts of a number of devices: all are looked at, few are worked out.

A layout whose products alone take longer than the slowest of those to be shown is left out unseen, and one whose
weights alone do not fit. Of layouts that differ in what is computed again alone only the first that fits counts: each
recomputation adds work to the same layout.
"""

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

from hierlm.errors import UserError
from hierlm.parallel.config import ParallelConfig
from hierlm.plan.estimate import Estimate, Estimator
from hierlm.plan.layouts import MOST_DEVICES, RECOMPUTE, most_data_parallel, obeys_rules, unchecked

Tell = Callable[[str], object]
"""Is told how far a search has come, a line at a time."""

SECONDS_BETWEEN_WORDS = 1.0

HELPS = 0.95
"""Of the time of half as many devices: what takes longer is no help."""


def fastest(estimator: Estimator, *, num_devices: int, most: int, tell: Tell | None = None) -> list[Estimate]:
    """The layouts of so many devices that fit, the fastest run first; UserError when the rules allow none at all."""
    return _Search(estimator, num_devices=num_devices, most=most, tell=tell).found()


class _Search:
    """One number of devices."""

    def __init__(self, estimator: Estimator, *, num_devices: int, most: int, tell: Tell | None) -> None:
        self._estimator, self._num_devices, self._most = estimator, num_devices, most
        self._tell, self._told_at = tell, monotonic()
        self._best: list[Estimate] = []
        self._num_allowed = self._num_worked_out = 0

    def found(self) -> list[Estimate]:
        """Best first: where the bounds lie highest, nothing is left to be better."""
        config, device = self._estimator.config, self._estimator.device
        num_layers = len(self._estimator.cut_costs)
        layouts = unchecked(config, num_devices=self._num_devices, num_layers=num_layers, per_node=device.per_node)
        bounded = sorted(((self._estimator.least_seconds(layout), layout) for layout in layouts), key=lambda b: b[0])
        for number, (least, layout) in enumerate(bounded):
            if self._is_beaten(least):
                break
            self._say(number, len(bounded))
            self._look_at(layout)
        if not self._num_allowed:
            raise UserError(_none_allowed(self._estimator, self._num_devices))
        return self._best

    def _look_at(self, layout: ParallelConfig) -> None:
        cannot_fit = self._estimator.least_bytes(layout) > self._estimator.usable_bytes
        if (cannot_fit and self._num_allowed) or not obeys_rules(self._estimator.config, layout):
            return
        for estimate in self._recomputing(layout):
            self._num_allowed += 1
            if estimate.fits:
                insort(self._best, estimate, key=lambda each: (each.seconds, each.peak_bytes))
                del self._best[self._most :]
            if cannot_fit or estimate.fits or self._is_beaten(estimate.seconds):
                return

    def _recomputing(self, layout: ParallelConfig) -> Iterator[Estimate]:
        for recompute in RECOMPUTE:
            try:
                self._num_worked_out += 1
                again = layout.model_copy(update={"activation_recompute": recompute})
                yield self._estimator.estimate(again, exact=False)
            except (ValueError, UserError):  # a width that the tensor degree does not divide
                return

    def _is_beaten(self, seconds: float) -> bool:
        return len(self._best) == self._most and seconds > self._best[-1].seconds

    def _say(self, number: int, of: int) -> None:
        if self._tell is not None and monotonic() - self._told_at > SECONDS_BETWEEN_WORDS:
            self._told_at = monotonic()
            best = f", the fastest takes {self._best[0].seconds:,.0f} s" if self._best else ""
            self._tell(
                f"{self._num_devices} devices: {number} of {of} layouts seen, {self._num_worked_out} worked out, "
                f"{len(self._best)} to show{best}"
            )


def nearest_that_fit(
    estimator: Estimator, layout: ParallelConfig, *, most: int, tell: Tell | None = None
) -> tuple[int, list[Estimate]]:
    """(devices, layouts ranked by speed): of as many devices as asked for, else of twice, four times, ... as many."""
    num_devices = layout.world_size
    while num_devices <= MOST_DEVICES:
        try:
            found = fastest(estimator, num_devices=num_devices, most=most, tell=tell)
        except UserError:
            found = []
        if found:
            return num_devices, found
        num_devices *= 2
    return 0, []


@dataclass(frozen=True)
class Scaling:
    """What a number of devices is worth beside half of it."""

    num_devices: int
    seconds: float
    half_seconds: float | None  # None: half as many hold no layout
    most_data_parallel: int
    data_parallel: int  # of the fastest layout
    global_batch_size: int

    @property
    def helps(self) -> bool:
        return self.half_seconds is None or self.seconds < HELPS * self.half_seconds

    @property
    def line(self) -> str:
        """For people."""
        half = self.num_devices // 2
        beside = f"{half} devices hold no layout that fits"
        if self.half_seconds is not None:
            beside = f"{self.seconds / self.half_seconds:.2f} of the time of {half} devices"
        cap = (
            f"the batch ({self.global_batch_size} rows) caps data parallelism at {self.most_data_parallel} ranks: "
            "beyond them devices can only share layers and their slices"
        )
        if not self.helps:
            return f"more than {half} devices no longer help ({beside}), because {cap}"
        if self.data_parallel == self.most_data_parallel:
            return f"{beside}; more will hardly help, because {cap}"
        return beside


def scaling(estimator: Estimator, best: Estimate, *, tell: Tell | None = None) -> Scaling:
    """Of the fastest layout of a search."""
    num_devices, config = best.layout.world_size, estimator.config
    try:
        half = fastest(estimator, num_devices=num_devices // 2, most=1, tell=tell) if num_devices % 2 == 0 else []
    except UserError:
        half = []
    return Scaling(
        num_devices=num_devices,
        seconds=best.seconds,
        half_seconds=half[0].seconds if half else None,
        most_data_parallel=most_data_parallel(config),
        data_parallel=best.layout.data_parallel_degree,
        global_batch_size=min(phase.global_batch_size for phase in config.phases),
    )


def _none_allowed(estimator: Estimator, num_devices: int) -> str:
    data, per_node = most_data_parallel(estimator.config), estimator.device.per_node
    return (
        f"no layout of {num_devices} devices obeys the rules for these batch sizes, heads and layers: the batch caps "
        f"data parallelism at {data} ranks, a node tensor parallelism at {per_node}, the layer list a pipeline at "
        f"{len(estimator.cut_costs)} stages; choose a number of devices that divides phases.N.global_batch_size times "
        "the model's heads"
    )
