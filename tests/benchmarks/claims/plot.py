"""The claims' plots as SVG text: lines, points and rows of dots."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hierlm.report.figures import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (7.5, 4.5)  # inches
ROW_INCHES = 0.3


@dataclass(frozen=True)
class Line:
    """One curve; those of one label share a colour and a place in the legend."""

    label: str
    color: int
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Point:
    """One mark."""

    label: str
    color: int
    x: float
    y: float


def line_plot(lines: Sequence[Line], *, x: str, y: str, log_x: bool = False) -> str:
    """Curves of labels, with a mark at each point; at 0 of a logarithmic axis there is none."""
    figure, axes = _page(SIZE, x=x, y=y)
    if log_x:
        axes.set_xscale("log")
    for line in lines:
        axes.plot(line.x, line.y, "o-", **_style(line.label, line.color, seen=_labels(axes)), linewidth=1.4)
    _legend(axes)
    return _svg(figure)


def scatter_plot(points: Sequence[Point], *, x: str, y: str) -> str:
    """Marks of labels."""
    figure, axes = _page(SIZE, x=x, y=y)
    for point in points:
        axes.plot(point.x, point.y, "o", **_style(point.label, point.color, seen=_labels(axes)))
    _legend(axes)
    return _svg(figure)


def dot_plot(points: Sequence[Point], *, x: str) -> str:
    """One row a label, in their order from above; the vertical place of a point is not read."""
    rows = list(dict.fromkeys(point.label for point in points))
    figure, axes = _page((SIZE[0], 0.8 + ROW_INCHES * len(rows)), x=x, y="")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for point in points:
        axes.plot(point.x, rows.index(point.label), "o", **_style(point.label, point.color, seen=()))
    return _svg(figure)


def _page(size: tuple[float, float], *, x: str, y: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _style(label: str, color: int, *, seen: Sequence[str]) -> dict[str, Any]:
    """Of a label that is in the legend already, without a place of its own there."""
    return {
        "color": COLORS[color % len(COLORS)],
        "label": f"_{label}" if label in seen else label,
        "markersize": 4,
        "alpha": 0.85,
    }


def _labels(axes: "Axes") -> list[str]:
    return axes.get_legend_handles_labels()[1]


def _legend(axes: "Axes") -> None:
    """Below the plot, so that it hides nothing."""
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)


def _svg(figure: "Figure") -> str:
    """The same text every time: no date, and names of parts that depend on nothing but the plot."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hierlm"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
