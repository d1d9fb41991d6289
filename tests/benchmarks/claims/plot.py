"""Small plots as SVG text: lines, points and rows of dots; no library, so that a plot is the same everywhere."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

from hierlm.report.figures import COLORS, GRID, INK, SOFT

WIDTH, HEIGHT = 720, 430
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 52
_LEGEND_ROW, _ROW = 18, 26
_LABELS = 250  # room for the names of rows
_TICKS = 6


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


@dataclass(frozen=True)
class Axis:
    """Values to pixels, from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], *, start: float, end: float, is_log: bool = False) -> "Axis":
        """All values, with a margin."""
        seen = [math.log10(v) if is_log else v for v in values]
        margin = 0.05 * (max(seen) - min(seen)) or 0.05 * abs(seen[0]) or 1.0
        return cls(min(seen) - margin, max(seen) + margin, start, end, is_log)

    def at(self, value: float) -> float:
        seen = math.log10(value) if self.is_log else value
        return self.start + (seen - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside: 1, 2 or 5 times a power of ten; on a logarithmic axis all of these."""
        if self.is_log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            return [n * 10.0**d for d in decades for n in (1, 2, 5) if self.low <= math.log10(n * 10.0**d) <= self.high]
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]


def line_plot(lines: Sequence[Line], *, x: str, y: str, log_x: bool = False) -> str:
    """Curves of labels, with a mark at each point."""
    horizontal = Axis.over(
        [v for line in lines for v in line.x if v > 0], start=_LEFT, end=WIDTH - _RIGHT, is_log=log_x
    )
    vertical = Axis.over([v for line in lines for v in line.y], start=HEIGHT - _BOTTOM, end=_TOP)
    body = [*_frame(horizontal, vertical, x=x, y=y)]
    for line in lines:
        marks = [(horizontal.at(a), vertical.at(b)) for a, b in zip(line.x, line.y, strict=True) if a > 0]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in marks)
        stroke = _color(line.color)
        body.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="1.6" opacity="0.85"/>')
        body += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.4" fill="{stroke}"/>' for a, b in marks]
    return _page(body, _legend({line.label: line.color for line in lines}), height=HEIGHT)


def scatter_plot(points: Sequence[Point], *, x: str, y: str) -> str:
    """Marks of labels."""
    horizontal = Axis.over([point.x for point in points], start=_LEFT, end=WIDTH - _RIGHT)
    vertical = Axis.over([point.y for point in points], start=HEIGHT - _BOTTOM, end=_TOP)
    body = [*_frame(horizontal, vertical, x=x, y=y)]
    body += [_dot(horizontal.at(point.x), vertical.at(point.y), point.color) for point in points]
    return _page(body, _legend({point.label: point.color for point in points}), height=HEIGHT)


def dot_plot(points: Sequence[Point], *, x: str) -> str:
    """One row a label, in their order; the vertical place of a point is not read."""
    rows = list(dict.fromkeys(point.label for point in points))
    bottom = _TOP + _ROW * len(rows)
    horizontal = Axis.over([point.x for point in points], start=_LABELS, end=WIDTH - _RIGHT)
    body = [*_ticks_below(horizontal, top=_TOP, bottom=bottom, title=x)]
    heights = {label: _TOP + _ROW * (index + 0.5) for index, label in enumerate(rows)}
    body += [_text(_LABELS - 8, height + 4, label, anchor="end") for label, height in heights.items()]
    body += [_dot(horizontal.at(point.x), heights[point.label], point.color) for point in points]
    return _page(body, [], height=bottom + _BOTTOM)


def _frame(horizontal: Axis, vertical: Axis, *, x: str, y: str) -> Iterator[str]:
    yield from _ticks_below(horizontal, top=_TOP, bottom=HEIGHT - _BOTTOM, title=x)
    for value in vertical.ticks():
        place = vertical.at(value)
        yield f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}" stroke="{GRID}"/>'
        yield _text(_LEFT - 6, place + 4, _number(value), anchor="end")
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    yield f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, y, anchor="middle")}</g>'


def _ticks_below(axis: Axis, *, top: float, bottom: float, title: str) -> Iterator[str]:
    for value in axis.ticks():
        place = axis.at(value)
        yield f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{top}" y2="{bottom}" stroke="{GRID}"/>'
        yield _text(place, bottom + 17, _number(value), anchor="middle")
    yield _text((axis.start + axis.end) / 2, bottom + 38, title, anchor="middle")


def _legend(labels: dict[str, int]) -> list[Callable[[float], str]]:
    """Rows below the plot, each given its height there."""

    def row(label: str, color: int) -> Callable[[float], str]:
        return lambda height: _dot(_LEFT, height - 4, color) + _text(_LEFT + 12, height, label, anchor="start")

    return [row(label, color) for label, color in labels.items()]


def _page(body: Sequence[str], legend: Sequence[Callable[[float], str]], *, height: float) -> str:
    rows = [row(height + _LEGEND_ROW * (index + 0.6)) for index, row in enumerate(legend)]
    whole = round(height + _LEGEND_ROW * len(rows) + (8 if rows else 0))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {whole}" width="{WIDTH}" height="{whole}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    ground = f'<rect width="{WIDTH}" height="{whole}" fill="white"/>'
    return "\n".join([f"{head} {style}>", ground, *body, *rows, "</svg>", ""])


def _dot(x: float, y: float, color: int) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{_color(color)}" fill-opacity="0.85" stroke="white"/>'


def _text(x: float, y: float, text: str, *, anchor: str) -> str:
    fill = INK if anchor == "start" else SOFT
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'


def _color(index: int) -> str:
    return COLORS[index % len(COLORS)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
