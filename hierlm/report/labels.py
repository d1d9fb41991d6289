"""Where the names of points go so that they stay readable: greedily, the side that covers least."""

from collections.abc import Sequence
from typing import NamedTuple

_PLOT_WIDTH, _PLOT_HEIGHT = 470.0, 240.0  # of a small plot on the page, in pixels
_LETTER, _LINE, _GAP = 6.6, 15.0, 11.0


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "_Box") -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)


def label_sides(points: Sequence[tuple[float, float, str]]) -> list[str]:
    """Plotly's textposition for each (x, y, name); x and y run from 0 to 1 over the plot, y upwards."""
    centres = [(x * _PLOT_WIDTH, (1 - y) * _PLOT_HEIGHT) for x, y, _ in points]
    taken = [_Box(x - 7, y - 7, x + 7, y + 7) for x, y in centres]
    sides = []
    for (x, y), (_, _, name) in zip(centres, points, strict=True):
        choices = _choices(x, y, width=len(name) * _LETTER)
        side, box = min(choices.items(), key=lambda choice: _cost(choice[1], taken))
        taken.append(box)
        sides.append(side)
    return sides


def _choices(x: float, y: float, *, width: float) -> dict[str, _Box]:
    half, tall = width / 2, _LINE / 2
    return {
        "top center": _Box(x - half, y - _GAP - _LINE, x + half, y - _GAP),
        "bottom center": _Box(x - half, y + _GAP, x + half, y + _GAP + _LINE),
        "middle right": _Box(x + _GAP, y - tall, x + _GAP + width, y + tall),
        "middle left": _Box(x - _GAP - width, y - tall, x - _GAP, y + tall),
    }


def _cost(box: _Box, taken: Sequence[_Box]) -> float:
    """What is covered, and what would be cut at the edges of the plot."""
    outside = max(-box.left, 0.0) + max(box.right - _PLOT_WIDTH, 0.0)
    outside += max(-box.top, 0.0) + max(box.bottom - _PLOT_HEIGHT, 0.0)
    return sum(box.overlap(other) for other in taken) + outside * _LINE
