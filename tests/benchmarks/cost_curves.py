"""Curves of costs: exponents fitted to them, their table, their plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

UPPER_SHARE = 0.6
"""Of the points of a curve so many are fitted, from its upper end: below, costs that do not grow hide the law."""

FEWEST_FITTED = 3

AXES = {"tokens": "sequence length T", "layers": "depth, layers", "width": "width D", "ranks": "data-parallel degree"}
MEASURES = {"seconds": "step, seconds", "bytes": "peak of tensor bytes, MiB"}


class Point(NamedTuple):
    """One size, measured."""

    size: int
    seconds: float
    bytes: int


class Law(NamedTuple):
    """cost = constant * size ** exponent, and how much of the variance of log cost it explains."""

    exponent: float
    r2: float


@dataclass(frozen=True)
class CostCurve:
    """One model along one axis."""

    model: str
    axis: str
    points: Sequence[Point]
    left_out: str = ""

    def values(self, measure: str) -> list[float]:
        """By size; in the units of MEASURES."""
        scale = 2**20 if measure == "bytes" else 1
        return [getattr(point, measure) / scale for point in self.points]

    @property
    def sizes(self) -> list[int]:
        return [point.size for point in self.points]

    def law(self, measure: str) -> Law | None:
        """Of its upper part; None of fewer than two points."""
        return fit(self.sizes, self.values(measure))


def fit(sizes: Sequence[float], costs: Sequence[float]) -> Law | None:
    """Least squares of log cost over log size, over the upper part of a curve in growing order."""
    count = min(max(FEWEST_FITTED, math.ceil(UPPER_SHARE * len(sizes))), len(sizes))
    if count < 2:
        return None
    x, y = np.log(np.asarray(sizes[-count:], float)), np.log(np.asarray(costs[-count:], float))
    exponent, constant = np.polyfit(x, y, 1)
    residual, spread = float(((y - constant - exponent * x) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return Law(float(exponent), 1.0 - residual / spread if spread > 0 else 1.0)


def table(curves: Sequence[CostCurve]) -> str:
    """Every curve: first and last point, and the exponents."""
    lines = [
        f"{'model':<16}{'over':<8}{'sizes':>14}{'step, s':>20}{'exponent (r2)':>17}{'MiB':>18}{'exponent (r2)':>17}"
    ]
    for curve in curves:
        first, last = curve.points[0], curve.points[-1]
        seconds, size = curve.values("seconds"), curve.values("bytes")
        row = f"{curve.model:<16}{curve.axis:<8}{f'{first.size}..{last.size}':>14}"
        row += f"{f'{seconds[0]:.3f}..{seconds[-1]:.3f}':>20}{_told(curve.law('seconds')):>17}"
        row += f"{f'{size[0]:.1f}..{size[-1]:.1f}':>18}{_told(curve.law('bytes')):>17}"
        lines += [row, *([f"  left out: {curve.left_out}"] if curve.left_out else [])]
    return "\n".join(lines)


def draw(curves: Sequence[CostCurve], path: Path, *, title: str) -> None:
    """One self-contained SVG: a row of plots per measure, a column per axis, both scales logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    axes = [axis for axis in AXES if any(curve.axis == axis for curve in curves)]
    colors = {model: f"C{number}" for number, model in enumerate(dict.fromkeys(curve.model for curve in curves))}
    figure, plots = plt.subplots(
        len(MEASURES), len(axes), figsize=(4 * len(axes), 7), squeeze=False, layout="constrained"
    )
    for row, measure in zip(plots, MEASURES, strict=True):
        for plot, axis in zip(row, axes, strict=True):
            for curve in (each for each in curves if each.axis == axis):
                law = curve.law(measure)
                label = curve.model if law is None else f"{curve.model}: {law.exponent:.2f}"
                plot.plot(
                    curve.sizes, curve.values(measure), "o-", color=colors[curve.model], label=label, markersize=4
                )
            plot.set(xscale="log", yscale="log", xlabel=AXES[axis], ylabel=MEASURES[measure])
            plot.set_xscale("log", base=2)
            plot.grid(alpha=0.3)
            plot.legend(fontsize="small", title="fitted exponent", title_fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _told(law: Law | None) -> str:
    return "-" if law is None else f"{law.exponent:.2f} ({law.r2:.3f})"
