"""The sources of a mixture one by one, as the last evaluation of the valid split found them."""

import math
from collections.abc import Callable

from hierlm import metric_names
from hierlm.report import formats
from hierlm.report.columns import headlines
from hierlm.report.page import table
from hierlm.report.run_record import Record, RunRecord

NOTE = "The run's own numbers are the mean of its sources, weighted as the phase draws from them."

_QUALITIES = {
    metric_names.BITS_PER_DIMENSION: "bits/dim",
    metric_names.BITS_PER_BYTE: "bits/byte",
    metric_names.LOSS: "loss",
}


def last_sources(run: RunRecord) -> dict[str, Record]:
    """What was measured of each source, by name; empty for a run of one source."""
    valid = run.evaluations("valid")
    if not valid:
        return {}
    if metric_names.SOURCES in valid[-1]:
        return dict(valid[-1][metric_names.SOURCES])
    return _from_tracker(run, step=int(valid[-1][metric_names.STEP]))


def source_rows(sources: dict[str, Record]) -> list[list[str]]:
    """A table with its header: name, weight, and what is known of each."""
    titles = {**_QUALITIES, **{column.key: column.title for column in headlines()}}
    known = [field for field in titles if any(field in each for each in sources.values())]
    header = ["source", "weight", *(titles[field] for field in known), "tokens"]
    return [header, *(_row(name, measured, fields=known) for name, measured in sources.items())]


def source_table(sources: dict[str, Record]) -> str:
    """The same for a page; nothing where there are none."""
    if not sources:
        return ""
    header, *rows = source_rows(sources)
    return table([(title, "text" if title == "source" else "") for title in header], rows)


def _row(name: str, measured: Record, *, fields: list[str]) -> list[str]:
    """What was not measured, or not finite, is `-`."""
    values = [_shown(measured.get(field), formats.quality) for field in fields]
    weight = _shown(measured.get(metric_names.WEIGHT), lambda share: f"{share:.3g}")
    return [name, weight, *values, _shown(measured.get(metric_names.TOKENS), lambda tokens: f"{int(tokens):,}")]


def _shown(value: object, show: Callable[[float], str]) -> str:
    return show(value) if isinstance(value, int | float) and math.isfinite(value) else "-"


def _from_tracker(run: RunRecord, *, step: int) -> dict[str, Record]:
    """A tracker keeps each source as a stream of its own, `valid/NAME`."""
    found = {}
    for record in run.records:
        split, _, name = str(record.get(metric_names.SPLIT, "")).partition("/")
        if split == "valid" and name and record[metric_names.STEP] == step and metric_names.WEIGHT in record:
            found[name] = record
    return found
