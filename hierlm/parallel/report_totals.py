"""What layers report, added up over micro-batches, and once in a while over all ranks.

Nothing travels while a step runs: each rank adds up what the layers of its stage say of its own rows. Where a step
or an evaluation ends, one all-reduce of one vector over the world gives every rank everything, when it is read. The
places in the vector follow from names that all ranks have agreed on. It also counts the ranks that hold other names,
and only where there are some (at the first such step, or when a phase's switches make layers report something else)
ranks tell each other their names and send the vector once more.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hierlm.metric_names import FIELDS, LAYER_LOSS
from hierlm.nn.report import Finish, Report
from hierlm.parallel.groups import Groups
from hierlm.parallel.later import Later
from hierlm.parallel.messages import gathered, told

LOSS = "loss"
TOTAL = "total"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


class Place(NamedTuple):
    """One name in the vector: its numbers and behind them how many rows they were added up over."""

    name: str
    kind: str
    size: int
    finish: Finish | None


class Gathered(NamedTuple):
    """The same on every rank."""

    objective: float  # nats per token, as it was handed in
    added: float | None  # what layers add to it, weighted; None where none reports a loss
    metrics: Mapping[str, float]  # `loss/<name>` and metrics, by name

    def named(self, objective: float) -> dict[str, float]:
        """All that layers report, and where they report losses the total of these and the objective."""
        total = {} if self.added is None else {LAYER_LOSS + TOTAL: objective + self.added}
        return {**self.metrics, **total}


class ReportTotals:
    """Of one kind of pass, training or evaluation; sums are fp64, on the device, and wait for nothing."""

    def __init__(self, groups: Groups, *, device: torch.device) -> None:
        self._groups, self._device = groups, device
        self._agreed: list[Place] = []
        self.clear()

    def clear(self) -> None:
        """Before the first micro-batch of a step or evaluation."""
        self._held: dict[str, Place] = {}
        self._sums: dict[str, Tensor] = {}
        self._added = self._num_rows = torch.zeros((), dtype=torch.float64, device=self._device)

    def add(self, reports: Sequence[Report], *, rows: Tensor | None) -> None:
        """What a micro-batch's layers said; `rows` bool [B] leaves out padding. ValueError names a malformed one."""
        for report in reports:
            place, values = _place(report), report.per_row.detach().double().reshape(len(report.per_row), -1)
            known = self._held.setdefault(place.name, place)
            if known != place:
                raise ValueError(f"{place.name}: layers report it in different ways, {known} and {place}")
            values = torch.cat((values, torch.ones_like(values[:, :1])), dim=1)  # the last column counts rows
            total = (values if rows is None else torch.where(rows[:, None], values, 0.0)).sum(dim=0)
            self._sums[place.name] = self._sums[place.name] + total if place.name in self._sums else total
            if report.kind == "loss":
                self._added = self._added + report.weight * total[0]

    def add_rows(self, num_rows: int | Tensor) -> None:
        """How many rows a micro-batch had."""
        self._num_rows = self._num_rows + num_rows

    def gather(self, objective: Tensor | float = math.nan) -> Gathered:
        """Over all ranks; `objective` is the mean of this data-parallel rank's rows. Every rank calls it equally often.

        Waits for the device.
        """
        return self.send(objective).read().gathered

    def send(
        self, objective: Tensor | float = math.nan, *, flags: Sequence[float] = (), own: Sequence[Tensor] = ()
    ) -> "Sent":
        """What has been added up since `clear`, and what `flags` of all ranks are together, sent off to all ranks.

        `own` are scalars that every rank knows, which come along to the host. Every rank calls it equally often, with
        equally many.
        """
        return Sent(self, self._taken(objective), flags=flags, own=own)

    def _taken(self, objective: Tensor | float) -> "Taken":
        return Taken(self._held, self._sums, self._num_rows, self._added, self._scalar(objective))

    def agreed_on(self, taken: "Taken") -> list[Place]:
        """The names after all ranks have told each other theirs; a collective call."""
        self._agree(taken.held)
        return self._agreed

    def found(self, numbers: Sequence[float], agreed: Sequence[Place]) -> Gathered:
        """What the summed vector says."""
        _, mean, num_rows, added, *numbers = numbers
        metrics, start = {}, 0
        for place in agreed:
            totals, count = numbers[start : start + place.size], numbers[start + place.size]
            start += place.size + 1
            if count:
                metrics[place.name] = _shown(place, torch.tensor(totals, dtype=torch.float64), count, num_rows)
        has_losses = any(place.kind == LOSS for place in agreed)
        return Gathered(mean / self._groups.degrees["data"], added / num_rows if has_losses else None, metrics)

    def parts(self, taken: "Taken", agreed: Sequence[Place]) -> Tensor:
        """This rank's [has other names, objective, rows, added losses, then every agreed name]."""
        held = taken.held
        differs = held.keys() - {place.name for place in agreed}
        differs = differs or {p.name for p in agreed if p.name in held and held[p.name] != p}
        parts = [self._scalar(float(bool(differs))), taken.objective, taken.num_rows, taken.added]
        for place in agreed:
            nothing = torch.zeros(place.size + 1, dtype=torch.float64, device=self._device)
            fits = held.get(place.name) == place
            parts.append(taken.sums[place.name] if fits else nothing)
        vector = torch.cat([part.reshape(-1) for part in parts])
        # tensor-parallel ranks report the same; the objective and the rows are known on every stage
        keeps = torch.full_like(vector, float(self._groups.tp_rank == 0))
        keeps[1:3] *= float(self._groups.place["pipeline"] == 0)
        keeps[0] = 1.0
        return torch.where(keeps > 0, vector, 0.0)

    @property
    def agreed(self) -> Sequence[Place]:
        """The names that all ranks know of each other, in the order of the vector."""
        return self._agreed

    def numbers(self, values: Sequence[float | Tensor]) -> Tensor:
        """Scalars as a vector beside the others."""
        return torch.stack([self._scalar(value) for value in values]) if values else self._added.new_zeros(0)

    def _scalar(self, value: Tensor | float) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=self._device).detach()

    def _agree(self, held: Mapping[str, Place]) -> None:
        """All ranks learn the names of all, in one order; a name known before keeps its place."""
        everyone = gathered(list(held.values()))
        union: dict[str, Place] = {}
        for place in told(list(dict.fromkeys(place for some in everyone for place in some))):
            if union.setdefault(place.name, place) != place:
                raise ValueError(f"{place.name}: layers report it in different ways, {union[place.name]} and {place}")
        known = {place.name: place for place in self._agreed}
        self._agreed = [union[name] for name in sorted(union)] + [known[n] for n in sorted(known.keys() - union.keys())]


class Taken(NamedTuple):
    """What a rank had added up when it sent it: the next step begins new sums."""

    held: Mapping[str, Place]
    sums: Mapping[str, Tensor]
    num_rows: Tensor
    added: Tensor
    objective: Tensor


class Arrived(NamedTuple):
    """What came of it."""

    gathered: Gathered
    flags: Sequence[float]
    own: Sequence[float]


class Sent:
    """Totals on their way to all ranks."""

    def __init__(self, totals: ReportTotals, taken: Taken, *, flags: Sequence[float], own: Sequence[Tensor]) -> None:
        self._totals, self._taken, self._num_flags = totals, taken, len(flags)
        self._agreed = totals.agreed
        vector = torch.cat((totals.numbers(flags), totals.parts(taken, self._agreed)))
        self._later = Later(vector, totals.numbers(own))

    def read(self) -> Arrived:
        """Waits for what was sent; every rank reads, in the order of sending."""
        summed, own = self._later.read()
        flags, numbers = summed[: self._num_flags], summed[self._num_flags :]
        if numbers[0] > 0:  # some rank has names that others do not know of
            self._agreed = self._totals.agreed_on(self._taken)
            vector = self._totals.parts(self._taken, self._agreed)
            numbers, _ = Later(vector, vector[:0]).read()
        return Arrived(self._totals.found(numbers, self._agreed), flags, own)


def _place(report: Report) -> Place:
    """ValueError where the report is none that can be shown."""
    values, name = report.per_row, report.name
    size = values[0].numel() if values.dim() else 0
    if not _NAME.fullmatch(name) or name in {TOTAL, *FIELDS}:
        raise ValueError(
            f"{name!r}: no name for a report; allowed: letters, digits and _.- after a letter, and none that records "
            f"have for something else: {', '.join(sorted({TOTAL, *FIELDS}))}"
        )
    if values.dim() not in (1, 2) or (size > 1 and report.finish is None) or (values.dim() > 1 and report.kind == LOSS):
        raise ValueError(
            f"{name}: given {list(values.shape)}, allowed: [rows], or of a metric with `finish` [rows, numbers]"
        )
    return Place(LAYER_LOSS + name if report.kind == LOSS else name, report.kind, size, report.finish)


def _shown(place: Place, totals: Tensor, count: float, num_rows: float) -> float:
    if place.kind == LOSS:
        totals = totals / num_rows  # several layers add up to one loss
    elif place.kind == "mean":
        totals = totals / count
    return float(totals) if place.finish is None else float(place.finish(totals))
