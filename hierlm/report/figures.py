"""Plots as plain data for Plotly: what is drawn, not how a page holds it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hierlm.report.columns import column_of
from hierlm.report.compare import Comparison, Row, pareto_front
from hierlm.report.labels import label_sides
from hierlm.report.run_record import RunRecord
from hierlm.report.series import AXES, Curve, evaluation_curve, phase_starts, smoothed, training_curve

Figure = dict[str, Any]

COLORS = ("#3b6fd4", "#e4572e", "#2a9d5c", "#8a4fd0", "#d99a00", "#159aa8", "#a05a3c", "#d6558f", "#6b7684", "#7aa51e")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "x")
INK, SOFT, FAINT, GRID = "#1c2430", "#5d6876", "#8b95a3", "#e6e9ee"

COSTS = {
    "peak_device_memory_bytes": "peak memory",
    "train_flops": "training FLOPs",
    "wall_seconds": "wall time",
    "tokens_seen": "training tokens",
}
_MOST_NAMES = 14  # written beside the points of a plot
_SMALLEST_SPAN_FOR_LOG = 8.0  # largest over smallest cost
_SMOOTHED_SHARE = 0.02  # of the points of a curve make one smoothed point
_EARLY_SHARE = 0.08  # of a training curve may be off the top of the plot: the fall from the first loss says little


def color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def layout(*, x: str, y: str, **more: Any) -> dict[str, Any]:
    """The common look: white, thin grid, titles of the axes; `more` overrides."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": "#c5ccd6", "ticks": "outside", "tickcolor": "#c5ccd6"}
    base = {
        "xaxis": {**axis, "title": {"text": x, "standoff": 12}, "automargin": True},
        "yaxis": {**axis, "title": {"text": y, "standoff": 12}, "automargin": True},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 64, "r": 20, "t": 24, "b": 52},
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#c5ccd6", "font": {"color": INK}, "align": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#b3bac5", "activecolor": INK},
        "showlegend": False,
    }
    return {**base, **more}


def trade_off(comparison: Comparison, *, cost: str) -> Figure | None:
    """Quality against one cost, error bars where seeds are several, the Pareto front; None when nobody has a cost."""
    quality = comparison.quality
    known = [row for row in comparison.rows if row.values[cost] is not None and row.values[quality] is not None]
    if not known:
        return None
    costs = [_number(row, cost) for row in known]
    scale, unit = _unit(cost, max(costs))
    is_log = min(costs) > 0 and max(costs) / min(costs) > _SMALLEST_SPAN_FOR_LOG
    ends = [end / scale for row in known for end in _ends(row, cost) if end > 0 or not is_log]
    x_range = _with_margins([math.log10(end) if is_log else end for end in ends], share=0.2)
    y_range = _with_margins([end for row in known for end in _ends(row, quality)], share=0.15)
    figure_layout = layout(x=COSTS[cost] + unit, y=column_of(quality).title)
    figure_layout["xaxis"] |= {"type": "log" if is_log else "linear", "tickformat": "" if unit else "~s"}
    figure_layout["xaxis"]["range"], figure_layout["yaxis"]["range"] = x_range, y_range
    front = pareto_front(comparison.rows, cost=cost, quality=quality)
    traces = [_front_trace(front, cost=cost, quality=quality, scale=scale)]
    traces += [_point(comparison, row, cost=cost, scale=scale, on_front=row in front) for row in known]
    _name_points(traces[1:], x_range=x_range, y_range=y_range, is_log=is_log)
    return {"data": traces, "layout": figure_layout}


def _point(comparison: Comparison, row: Row, *, cost: str, scale: float, on_front: bool) -> dict[str, Any]:
    """Colour by row, symbol by architecture, an ink outline on the front."""
    quality = comparison.quality
    models = list(dict.fromkeys(str(other.values["model"]) for other in comparison.rows))
    marker = {
        "size": 13,
        "color": color(comparison.rows.index(row)),
        "symbol": SYMBOLS[models.index(str(row.values["model"])) % len(SYMBOLS)],
        "line": {"color": INK if on_front else "white", "width": 1.4},
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_number(row, cost) / scale],
        "y": [_number(row, quality)],
        "error_x": _error(row, cost, scale=scale),
        "error_y": _error(row, quality, scale=1.0),
        "marker": marker,
        "hovertemplate": _hover(row, quality),
        "textfont": {"size": 12, "color": INK if on_front else SOFT},
        "name": row.label,
    }


def _name_points(
    traces: Sequence[dict[str, Any]], *, x_range: Sequence[float], y_range: Sequence[float], is_log: bool
) -> None:
    """Names beside the points, as long as they are few; with more, hovering tells."""
    if len(traces) > _MOST_NAMES:
        return
    xs = [math.log10(trace["x"][0]) if is_log else trace["x"][0] for trace in traces]
    places = [
        ((x - x_range[0]) / (x_range[1] - x_range[0]), (trace["y"][0] - y_range[0]) / (y_range[1] - y_range[0]))
        for x, trace in zip(xs, traces, strict=True)
    ]
    sides = label_sides([(x, y, trace["name"]) for (x, y), trace in zip(places, traces, strict=True)])
    for trace, side in zip(traces, sides, strict=True):
        trace |= {"mode": "markers+text", "text": [trace["name"]], "textposition": side}


def curves(runs: Sequence[tuple[str, RunRecord]], *, field: str, title: str) -> Figure:
    """Evaluation and smoothed training curves of named runs, over any axis, with the starts of phases."""
    traces: list[dict[str, Any]] = []
    variants: dict[str, dict[str, Any]] = {axis: {"x": []} for axis in AXES}
    for index, (label, run) in enumerate(runs):
        for trace, curve in _run_traces(label, run, field=field, index=index):
            traces.append(trace)
            for axis, variant in variants.items():
                variant["x"].append(list(curve.x[axis]))
    for axis, variant in variants.items():
        variant["title"] = AXES[axis]
        variant["shapes"], variant["annotations"] = _phase_marks([run for _, run in runs], axis=axis)
    first = variants["tokens"]
    for trace, x in zip(traces, first["x"], strict=True):
        trace["x"] = x
    figure_layout = layout(
        x=first["title"],
        y=title,
        hovermode="closest",
        showlegend=True,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left"},
        shapes=first["shapes"],
        annotations=first["annotations"],
    )
    figure_layout["xaxis"]["tickformat"] = "~s"
    figure_layout["xaxis"]["rangemode"] = "tozero"
    figure_layout["yaxis"]["range"] = _late_range([trace["y"] for trace in traces])
    known = [axis for axis in AXES if any(any(x) for x in variants[axis]["x"])]
    return {"data": traces, "layout": figure_layout, "variants": {axis: variants[axis] for axis in known}}


def _run_traces(label: str, run: RunRecord, *, field: str, index: int) -> list[tuple[dict[str, Any], Curve]]:
    train, valid = training_curve(run, field), evaluation_curve(run, field)
    line = {"color": color(index), "dash": DASHES[index // len(COLORS) % len(DASHES)]}
    common: dict[str, Any] = {"type": "scatter", "legendgroup": label, "name": label}
    noisy = {
        **common,
        "mode": "lines",
        "y": smoothed(train.y, window=_SMOOTHED_SHARE * len(train.y)),
        "line": {**line, "width": 1.3},
        "opacity": 0.45,
        "showlegend": not valid.y,
        "hovertemplate": f"<b>{label}</b> train<br>%{{x}} · %{{y:.4f}}<extra></extra>",
    }
    exact = {
        **common,
        "mode": "lines+markers",
        "y": list(valid.y),
        "line": {**line, "width": 2.4},
        "marker": {"size": 7, "color": color(index), "line": {"color": "white", "width": 1}},
        "hovertemplate": f"<b>{label}</b> valid<br>%{{x}} · %{{y:.4f}}<extra></extra>",
    }
    return [(trace, curve) for trace, curve in ((noisy, train), (exact, valid)) if curve.y]


def _late_range(curves: Sequence[Sequence[float]]) -> list[float] | None:
    """The range of everything but the beginning of each curve."""
    late = [value for ys in curves for value in ys[int(len(ys) * _EARLY_SHARE) :]]
    return _with_margins(late, share=0.06) if late else None


def _phase_marks(runs: Sequence[RunRecord], *, axis: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Dotted lines where phases start; a start that several runs share is drawn once, in grey."""
    owners: dict[tuple[float, str], list[int]] = {}
    for index, run in enumerate(runs):
        for start in phase_starts(run):
            owners.setdefault((start.x[axis], start.name), []).append(index)
    shapes, annotations = [], []
    for (x, name), indices in owners.items():
        ink = color(indices[0]) if len(indices) == 1 and len(runs) > 1 else FAINT
        shapes.append(
            {
                "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "layer": "below",
                "line": {"color": ink, "width": 1.2, "dash": "dot"},
            }
        )  # fmt: skip
        annotations.append(
            {
                "x": x, "y": 1, "yref": "paper", "text": name, "showarrow": False, "xanchor": "left",
                "yanchor": "top", "xshift": 4, "font": {"size": 11, "color": ink},
            }
        )  # fmt: skip
    return shapes, annotations


def _front_trace(front: Sequence[Row], *, cost: str, quality: str, scale: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [_number(row, cost) / scale for row in front],
        "y": [_number(row, quality) for row in front],
        "line": {"color": "#9aa4b2", "width": 1.5, "dash": "dash", "shape": "hv"},
        "hoverinfo": "skip",
        "name": "Pareto front",
    }


def _hover(row: Row, quality: str) -> str:
    keys = dict.fromkeys((quality, "num_parameters", *COSTS, "tokens_per_second"))
    lines = [f"{column_of(key).title}: {row.shown(key)}" for key in keys if row.values[key] is not None]
    return "<br>".join([f"<b>{row.label}</b> ({row.values['model']})", *lines]) + "<extra></extra>"


def _error(row: Row, key: str, *, scale: float) -> dict[str, Any]:
    deviation = row.deviations.get(key, 0.0) / scale
    return {"type": "data", "array": [deviation], "visible": deviation > 0, "thickness": 1.2, "color": FAINT}


def _ends(row: Row, key: str) -> tuple[float, float]:
    """Of the error bar."""
    value, deviation = _number(row, key), row.deviations.get(key, 0.0)
    return value - deviation, value + deviation


def _number(row: Row, key: str) -> float:
    value = row.values[key]
    assert isinstance(value, int | float), f"{key} of {row.label} is {value!r}"
    return float(value)


def _unit(cost: str, largest: float) -> tuple[float, str]:
    """What to divide by, and how to say so at the axis; the others are written with SI prefixes."""
    units: Mapping[str, Sequence[tuple[float, str]]] = {
        "peak_device_memory_bytes": ((1.0, " (bytes)"), (2.0**20, " (MiB)"), (2.0**30, " (GiB)")),
        "wall_seconds": ((1.0, " (s)"), (60.0, " (min)"), (3600.0, " (h)")),
    }
    choices = units.get(cost, ((1.0, ""),))
    return next(((scale, unit) for scale, unit in reversed(choices) if largest >= 2 * scale), choices[0])


def _with_margins(values: Sequence[float], *, share: float) -> list[float]:
    """A range with room for names beside the outermost points."""
    span = max(values) - min(values) or abs(values[0]) * 0.2 or 1.0
    return [min(values) - share * span, max(values) + share * span]
