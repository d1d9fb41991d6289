"""Runs side by side: rows sorted, seeds aggregated, differences of config, and who is on the Pareto front."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean, stdev
from typing import Any

from hierlm.report.columns import Value, all_columns, column_of, measures, quality_of
from hierlm.report.run_record import RunRecord

_SAME_EXPERIMENT = ("name", "seed", "run_root", "tracking.")  # where runs that differ are still repetitions
_EPSILON = 1e-12


@dataclass(frozen=True)
class Row:
    """One run, or runs that differ in nothing but the seed; then numbers are means with a deviation."""

    label: str
    runs: tuple[RunRecord, ...]
    values: Mapping[str, Value]
    deviations: Mapping[str, float]  # sample standard deviation; only where there are several runs

    def shown(self, key: str) -> str:
        """The cell as text; `-` where nothing is known."""
        value, column = self.values[key], column_of(key)
        if value is None:
            return "-"
        if column.shown is None or isinstance(value, str):
            return str(value)
        deviation = self.deviations.get(key, 0.0)
        return column.shown(value) + (f" ± {column.shown(deviation)}" if deviation > _EPSILON else "")


@dataclass(frozen=True)
class Comparison:
    """All that a table or a page shows."""

    experiment: str
    rows: tuple[Row, ...]
    differences: Mapping[str, tuple[str | None, ...]]  # config key -> the value of each row, None where it has none

    @property
    def quality(self) -> str:
        """The column runs are judged by."""
        return quality_of([row.values for row in self.rows])

    def best(self, key: str) -> float | None:
        """The best value of a column, if it has a good end and rows to choose from."""
        found = [v for row in self.rows if isinstance(v := row.values[key], int | float)]
        better = column_of(key).better
        if better is None or len(found) < 2:
            return None
        return min(found) if better == "low" else max(found)


def compare(experiment: str, runs: Sequence[RunRecord], *, sort: str | None = None, each: bool = False) -> Comparison:
    """Rows best first by `sort` (default: the quality column), repetitions made one row unless `each`."""
    groups = [[run] for run in runs] if each else _repetitions(runs)
    rows = [_row(group) for group in groups]
    unsorted = Comparison(experiment, tuple(rows), {})
    ordered = tuple(sorted(rows, key=_order(sort or unsorted.quality)))
    return Comparison(experiment, ordered, _differences(ordered))


def pareto_front(rows: Sequence[Row], *, cost: str, quality: str) -> list[Row]:
    """The rows no other row beats in both `cost` and `quality` (both better when low), cheapest first."""
    known = [row for row in rows if _is_number(row.values[cost]) and _is_number(row.values[quality])]
    front: list[Row] = []
    for row in sorted(known, key=lambda row: (row.values[cost], row.values[quality])):
        if not front or row.values[quality] < front[-1].values[quality]:  # type: ignore[operator]
            front.append(row)
    return front


def as_document(comparison: Comparison) -> dict[str, Any]:
    """For --json: numbers as they are, every run beside its row."""
    return {
        "experiment": comparison.experiment,
        "rows": [
            {**row.values, "run": row.label, "deviations": dict(row.deviations), "runs": [r.source for r in row.runs]}
            for row in comparison.rows
        ],
        "differences": {key: list(values) for key, values in comparison.differences.items()},
    }


def _repetitions(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    groups: dict[tuple[tuple[str, str], ...], list[RunRecord]] = {}
    for run in runs:
        settings = tuple(sorted(item for item in run.config.items() if not item[0].startswith(_SAME_EXPERIMENT)))
        groups.setdefault(settings, []).append(run)
    return list(groups.values())


def _row(runs: Sequence[RunRecord]) -> Row:
    found = [measures(run) for run in runs]
    if len(runs) == 1:
        return Row(runs[0].name, tuple(runs), found[0], {})
    values, deviations = dict(found[0]), {}
    for column in all_columns():
        numbers = [v for measured in found if isinstance(v := measured[column.key], int | float)]
        if column.shown is not None and numbers:
            values[column.key] = fmean(numbers)
            deviations[column.key] = stdev(numbers) if len(numbers) > 1 else 0.0
    label = _common_name([run.name for run in runs])
    statuses = {str(measured["status"]) for measured in found}
    more = {"run": label, "seed": f"{len(runs)} seeds", "status": ", ".join(sorted(statuses))}
    return Row(label, tuple(runs), {**values, **more}, deviations)


def _common_name(names: Sequence[str]) -> str:
    """`demo-seed1`, `demo-seed2` -> `demo`; the first name where they share nothing."""
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = "".join(letters[0] for letters in same).rstrip("0123456789")
    for ending in ("seed", "s"):
        stem = prefix.rstrip("-_.").removesuffix(ending)
        if stem != prefix.rstrip("-_.") and (not stem or stem[-1] in "-_."):
            prefix = stem
    return prefix.rstrip("-_.") or names[0]


def _order(key: str) -> Callable[[Row], tuple[bool, float, str]]:
    """Best first, unknown last; text by the alphabet."""
    sign = -1.0 if column_of(key).better == "high" else 1.0

    def order(row: Row) -> tuple[bool, float, str]:
        value = row.values[key]
        if isinstance(value, int | float) and not math.isnan(value):
            return False, sign * value, row.label
        return value is None or not isinstance(value, str), 0.0, str(value) + row.label

    return order


def _differences(rows: Sequence[Row]) -> dict[str, tuple[str | None, ...]]:
    """Config keys whose value is not the same in every row, in the order of the config."""
    keys = dict.fromkeys(key for row in rows for key in row.runs[0].config)
    table = {key: tuple(row.runs[0].config.get(key) for row in rows) for key in keys}
    return {k: v for k, v in table.items() if len(set(v)) > 1 and not k.startswith(_SAME_EXPERIMENT)}


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
