"""Plots as plain data for Plotly: what is drawn, not how a page holds it."""

from collections.abc import Mapping, Sequence
from typing import Any

from hierlm.report.columns import BY_KEY
from hierlm.report.compare import Comparison, Row, pareto_front
from hierlm.report.run_record import RunRecord
from hierlm.report.series import AXES, Curve, evaluation_curve, phase_starts, smoothed, training_curve

Figure = dict[str, Any]

COLORS = ("#3b6fd4", "#e4572e", "#2a9d5c", "#8a4fd0", "#d99a00", "#159aa8", "#a05a3c", "#d6558f", "#6b7684", "#7aa51e")
DASHES = ("solid", "dash", "dot", "dashdot")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star", "hexagon", "x")
INK, FAINT, GRID = "#1c2430", "#8b95a3", "#e6e9ee"

COSTS = {
    "peak_device_memory_bytes": "peak memory",
    "train_flops": "training FLOPs",
    "wall_seconds": "wall time",
    "tokens_seen": "training tokens",
}
_SMALLEST_SPAN_FOR_LOG = 8.0  # largest over smallest cost
_SMOOTHING = 0.9


def color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def layout(*, x: str, y: str, **more: Any) -> dict[str, Any]:
    """The common look: white, thin grid, titles of the axes; `more` overrides."""
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": "#c5ccd6", "ticks": "outside", "tickcolor": "#c5ccd6"}
    base = {
        "xaxis": {**axis, "title": {"text": x}, "automargin": True},
        "yaxis": {**axis, "title": {"text": y}, "automargin": True},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 64, "r": 20, "t": 24, "b": 52},
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#c5ccd6", "font": {"color": INK}, "align": "left"},
        "showlegend": False,
    }
    return {**base, **more}


def trade_off(comparison: Comparison, *, cost: str) -> Figure | None:
    """Quality against one cost, error bars where seeds are several, the Pareto front; None when nobody has a cost."""
    quality = comparison.quality
    known = [row for row in comparison.rows if row.values[cost] is not None and row.values[quality] is not None]
    if not known:
        return None
    scale, unit = _unit(cost, max(_number(row, cost) for row in known))
    front = pareto_front(comparison.rows, cost=cost, quality=quality)
    models = list(dict.fromkeys(str(row.values["model"]) for row in comparison.rows))
    traces = [_front_trace(front, cost=cost, quality=quality, scale=scale)]
    for row in known:
        index = comparison.rows.index(row)
        symbol = SYMBOLS[models.index(str(row.values["model"])) % len(SYMBOLS)]
        on_front = row in front
        traces.append(
            {
                "type": "scatter",
                "mode": "markers+text" if len(known) <= 12 else "markers",
                "x": [_number(row, cost) / scale],
                "y": [_number(row, quality)],
                "error_x": _error(row, cost, scale=scale),
                "error_y": _error(row, quality, scale=1.0),
                "text": [row.label],
                "textposition": "top center",
                "textfont": {"size": 12, "color": INK if on_front else FAINT},
                "marker": {
                    "size": 13,
                    "color": color(index),
                    "symbol": symbol,
                    "line": {"color": INK if on_front else "white", "width": 1.4},
                },
                "hovertemplate": _hover(row, quality),
                "name": row.label,
            }
        )
    costs = [_number(row, cost) for row in known]
    figure_layout = layout(x=COSTS[cost] + unit, y=BY_KEY[quality].title)
    if min(costs) > 0 and max(costs) / min(costs) > _SMALLEST_SPAN_FOR_LOG:
        figure_layout["xaxis"]["type"] = "log"
    figure_layout["xaxis"]["tickformat"] = "~s" if not unit else ""
    _leave_room_for_labels(figure_layout, costs=[value / scale for value in costs], known=known, quality=quality)
    return {"data": traces, "layout": figure_layout}


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
    known = [axis for axis in AXES if any(any(x) for x in variants[axis]["x"])]
    return {"data": traces, "layout": figure_layout, "variants": {axis: variants[axis] for axis in known}}


def _run_traces(label: str, run: RunRecord, *, field: str, index: int) -> list[tuple[dict[str, Any], Curve]]:
    train, valid = training_curve(run, field), evaluation_curve(run, field)
    line = {"color": color(index), "dash": DASHES[index // len(COLORS) % len(DASHES)]}
    common: dict[str, Any] = {"type": "scatter", "legendgroup": label, "name": label}
    noisy = {
        **common,
        "mode": "lines",
        "y": smoothed(train.y, weight=_SMOOTHING) if len(train.y) > 30 else list(train.y),
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
    lines = [f"{BY_KEY[key].title}: {row.shown(key)}" for key in keys if row.values[key] is not None]
    return "<br>".join([f"<b>{row.label}</b> ({row.values['model']})", *lines]) + "<extra></extra>"


def _error(row: Row, key: str, *, scale: float) -> dict[str, Any]:
    deviation = row.deviations.get(key, 0.0) / scale
    return {"type": "data", "array": [deviation], "visible": deviation > 0, "thickness": 1.2, "color": FAINT}


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


def _leave_room_for_labels(
    figure_layout: dict[str, Any], *, costs: Sequence[float], known: Sequence[Row], quality: str
) -> None:
    """Labels stand above and beside their points: Plotly's own range would cut them."""
    values = [_number(row, quality) for row in known]
    height = max(values) - min(values) or abs(values[0]) * 0.1 or 1.0
    figure_layout["yaxis"]["range"] = [min(values) - 0.18 * height, max(values) + 0.25 * height]
    if figure_layout["xaxis"].get("type") != "log":
        width = max(costs) - min(costs) or abs(costs[0]) * 0.5 or 1.0
        figure_layout["xaxis"]["range"] = [min(costs) - 0.25 * width, max(costs) + 0.25 * width]
