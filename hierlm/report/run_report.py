"""The report of one run: what it reached, how fast, where the time went; as text, as a document, as a page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hierlm import metric_names
from hierlm.report import formats
from hierlm.report.columns import QUALITIES, all_columns, column_of, measures, numbers, quality_of
from hierlm.report.figures import Figure, color, curves, layout
from hierlm.report.layer_norms import layer_norm_fields, layer_norms
from hierlm.report.page import Panel, Section, page, table
from hierlm.report.run_record import Record, RunRecord
from hierlm.report.series import Curve, evaluation_curve, phase_starts, thinned, training_curve
from hierlm.report.sources import NOTE, last_sources, source_rows, source_table
from hierlm.report.stage_balance import StageBalance
from hierlm.report.stages import stage_document, stage_note, stage_panel, stage_rows, stage_table
from hierlm.report.text import aligned
from hierlm.report.time_split import PARTS, TimeSplit, time_split

_PART_COLORS = {  # what makes progress in green and blue, what is lost in red, the rest in quiet colours
    "compute": "#2a9d5c",
    "data_wait": "#d99a00",
    "evaluation": "#3b6fd4",
    "save": "#159aa8",
    "start_up": "#8a4fd0",
    "lost": "#e4572e",
    "between": "#c9876a",
    "other": "#a9b1bd",
}
_BARS = "▁▂▃▄▅▆▇█"


def document(run: RunRecord, *, balance: StageBalance | None) -> dict[str, Any]:
    """For --json. `balance` here and below: None where one stage holds all layers."""
    split = time_split(run)
    return {
        "run": run.name,
        "measures": measures(run),
        "reported": _last_reported(run),
        "sources": {name: dict(measured) for name, measured in last_sources(run).items()},
        "goodput": None if split is None else split.goodput,
        "time_seconds": {} if split is None else {"total": split.total_seconds, **split.seconds},
        "stages": stage_document(balance),
        "phase_starts": [{"phase": start.name, **start.x} for start in phase_starts(run)],
        "attempts": [dict(record) for record in run.attempts],
    }


def text(run: RunRecord, *, balance: StageBalance | None) -> str:
    """For a terminal or a log."""
    values = measures(run)
    shown = [(c.title, _shown(c.key, values[c.key])) for c in all_columns() if values[c.key] is not None]
    lines = aligned([["what", "value"], *map(list, shown)])
    if sources := last_sources(run):
        lines += ["", f"valid: {NOTE}", *(f"  {line}" for line in aligned(source_rows(sources)))]
    lines += ["", f"training loss {_first_and_last(numbers(run.train, metric_names.LOSS))}"]
    lines += [f"training {name} {_first_and_last(numbers(run.train, name))}" for name in _reported(run.train)]
    lines += [f"valid {name} {value:.4f}" for name, value in _last_reported(run)["valid"].items()]
    split = time_split(run)
    if split is not None:
        lines += ["", f"time {formats.duration(split.total_seconds)}, goodput {formats.share(split.goodput or 0.0)}"]
        lines += [f"  {line}" for line in aligned(_time_rows(split))]
    lines += ["", f"pipeline: {stage_note(balance)}"]
    if balance is not None:
        lines += [f"  {line}" for line in aligned(stage_rows(balance))]
    return "\n".join(lines)


def run_page(run: RunRecord, *, balance: StageBalance | None) -> str:
    """The whole HTML document."""
    values, split, sources = measures(run), time_split(run), last_sources(run)
    quality = quality_of([values])
    title = column_of(quality).title
    sections = [
        Section(
            "Learning curve", panels=[Panel(title, curves([(run.name, run)], field=quality, title=title), size="tall")]
        ),
        Section("Sources", note=NOTE if sources else "", body=source_table(sources)),
        Section(
            "Time",
            note=_time_note(split),
            panels=[] if split is None else [Panel("where it went", _bar(split), size="flat")],
        ),
        Section(
            "Stages of the pipeline",
            note=stage_note(balance),
            body=stage_table(balance),
            panels=[] if balance is None else [stage_panel(balance)],
        ),
        Section("Step by step", panels=_step_panels(run)),
        Section("Beside the loss", panels=_reported_panels(run)),
        Section("Attempts", body=_attempts(run.attempts)),
        Section("Config", body=table([("key", "text"), ("value", "text")], [[k, v] for k, v in run.config.items()])),
    ]
    return page(
        title=f"Run {run.name}",
        lead=f"{values['model']} · experiment {run.experiment or '?'} · {values['status']}",
        tiles=_tiles(run, split),
        sections=[section for section in sections if section.body or section.panels or section.note],
    )


def sparkline(values: Sequence[float], *, width: int = 60) -> str:
    """A curve in one line of text."""
    if not values:
        return "-"
    stretch = max(1, math.ceil(len(values) / width))
    means = [math.fsum(values[i : i + stretch]) / len(values[i : i + stretch]) for i in range(0, len(values), stretch)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[min(int((mean - low) / span * len(_BARS)), len(_BARS) - 1)] for mean in means)


def _first_and_last(values: Sequence[float]) -> str:
    return f"{values[0]:.4f} {sparkline(values)} {values[-1]:.4f}" if values else "-"


def _shown(key: str, value: float | str | None) -> str:
    column = column_of(key)
    return column.shown(value) if column.shown is not None and isinstance(value, int | float) else str(value)


def _time_rows(split: TimeSplit) -> list[list[str]]:
    known = [(part, seconds) for part, seconds in split.seconds.items() if seconds > 0]
    return [[p, formats.duration(s), formats.share(s / max(split.total_seconds, 1e-9)), PARTS[p]] for p, s in known]


def _tiles(run: RunRecord, split: TimeSplit | None) -> dict[str, str]:
    values = measures(run)
    speed = ("steps", "tokens_seen", "tokens_per_second", "peak_device_memory_bytes")
    asked = dict.fromkeys((quality_of([values]), *QUALITIES, "loss", *speed))
    tiles = {column_of(key).title: _shown(key, values[key]) for key in asked if values[key] is not None}
    if split is not None and split.goodput is not None:
        tiles["goodput"] = formats.share(split.goodput)
    return tiles


def _time_note(split: TimeSplit | None) -> str:
    if split is None or split.goodput is None:
        return ""
    return (
        f"{formats.duration(split.total_seconds)} from the first start to the last sign of life; "
        f"{formats.share(split.goodput)} of it computed steps that count (goodput)."
    )


def _bar(split: TimeSplit) -> Figure:
    """One bar, its parts side by side."""
    traces = [_part(part, seconds, split=split) for part, seconds in split.seconds.items() if seconds > 0]
    legend = {"orientation": "h", "y": -0.75, "yanchor": "top", "traceorder": "normal"}
    scale, unit = next(
        (s, u)
        for s, u in ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        if split.total_seconds >= 3 * s or s == 1
    )
    figure_layout = layout(x=unit, y="", barmode="stack", showlegend=True, legend=legend)
    figure_layout["yaxis"]["visible"] = False
    for trace in traces:
        trace["x"] = [seconds / scale for seconds in trace["x"]]
    return {"data": traces, "layout": figure_layout}


def _part(part: str, seconds: float, *, split: TimeSplit) -> dict[str, Any]:
    name, share = part.replace("_", " "), seconds / max(split.total_seconds, 1e-9)
    return {
        "type": "bar",
        "orientation": "h",
        "x": [seconds],
        "y": [""],
        "name": f"{name} {formats.share(share)}",
        "marker": {"color": _PART_COLORS[part]},
        "text": [name if share > 0.08 else ""],
        "textposition": "inside",
        "insidetextanchor": "middle",
        "textangle": 0,
        "hovertemplate": f"<b>{name}</b> {formats.duration(seconds)}<br>{PARTS[part]}<extra></extra>",
    }


def _step_panels(run: RunRecord) -> list[Panel]:
    """One small plot per measured quantity that was logged."""
    asked = {
        metric_names.TOKENS_PER_SECOND: ("throughput", "tokens/s"),
        metric_names.STEP_SECONDS: ("time of a step", "s"),
        metric_names.DATA_WAIT_FRACTION: ("share of a step spent waiting for data", ""),
        metric_names.DEVICE_MEMORY_BYTES: ("device memory", "bytes"),
        metric_names.SHARE_OF_PEAK: ("share of the device's peak", ""),
        metric_names.LEARNING_RATE: ("learning rate", ""),
        metric_names.GRAD_NORM: ("gradient norm before clipping", ""),
    }
    panels = [
        Panel(caption, _line(run, field, unit=unit)) for field, (caption, unit) in asked.items() if _has(run, field)
    ]
    return panels + ([Panel("gradient norm of each layer", layer_norms(run))] if layer_norm_fields(run) else [])


def _reported(records: Sequence[Record]) -> list[str]:
    """What layers reported in any of these records, by name."""
    return list(dict.fromkeys(name for record in records for name in metric_names.reported(record)))


def _last_reported(run: RunRecord) -> dict[str, dict[str, float]]:
    """By the newest logged step and the newest evaluation of the valid split."""
    newest = {"train": run.train[-1:], "valid": run.evaluations("valid")[-1:]}
    return {where: metric_names.reported(records[0]) if records else {} for where, records in newest.items()}


def _reported_panels(run: RunRecord) -> list[Panel]:
    """One small plot a name, of the logged steps, and of the evaluations where there are any."""
    panels = []
    for name in dict.fromkeys([*_reported(run.train), *_reported(run.evaluations("valid"))]):
        drawn = {"train": training_curve(run, name), "valid": evaluation_curve(run, name)}
        finite = {where: curve for where, curve in drawn.items() if curve.y}
        panels += [Panel(name, _lines(finite, run=run))] if finite else []
    return panels


def _has(run: RunRecord, field: str) -> bool:
    return bool(numbers(run.train, field))


def _line(run: RunRecord, field: str, *, unit: str) -> Figure:
    curve = training_curve(run, field)
    if unit == "bytes":
        scale, unit = (2.0**30, "GiB") if max(curve.y) > 2**30 else (2.0**20, "MiB")
    else:
        scale = 1.0
    figure = _lines({"": Curve(curve.x, [value / scale for value in curve.y])}, run=run, unit=unit)
    figure["layout"]["yaxis"]["rangemode"] = "tozero"
    return figure


def _lines(curves: Mapping[str, Curve], *, run: RunRecord, unit: str = "") -> Figure:
    """Curves over the steps, by name, with a mark where a phase begins; every curve has a point."""
    few = {name: thinned(curve, most_points=600) for name, curve in curves.items()}
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(curve.y) < 3 else "lines",
            "name": name,
            "x": list(curve.x["steps"]),
            "y": list(curve.y),
            "line": {"color": color(place), "width": 1.6},
            "hovertemplate": f"{name} step %{{x}}: %{{y:.4~g}}<extra></extra>",
        }
        for place, (name, curve) in enumerate(few.items())
    ]
    starts = [start.x["steps"] for start in phase_starts(run)]
    shapes = [
        {
            "type": "line",
            "x0": x,
            "x1": x,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": "#8b95a3", "dash": "dot"},
        }
        for x in starts
    ]
    figure_layout = layout(x="steps", y=unit, shapes=shapes, showlegend=len(few) > 1)
    largest = max(value for curve in few.values() for value in curve.y)
    figure_layout["yaxis"]["tickformat"] = "~s" if largest >= 1000 else ""
    return {"data": traces, "layout": figure_layout}


def _attempts(attempts: Sequence[Any]) -> str:
    if not attempts:
        return ""
    keys = ("attempt", "event", "time", "host", "job_id", "first_step", "last_step", "why")
    rows = [["" if record.get(key) is None else str(record[key]) for key in keys] for record in attempts]
    return table([(key.replace("_", " "), "text") for key in keys], rows)
