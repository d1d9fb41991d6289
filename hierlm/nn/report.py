"""What a layer reports beside its output: a loss of its own, or a number worth watching.

Everything is one value (or one row of values) per row of the batch, so that no micro-batch size and no layout changes
what comes out. What is not linear in the batch is therefore made row by row.

Shapes: B rows, n numbers of one metric.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

Finish = Callable[[Tensor], float]
"""fp64 [n], the mean or sum over all rows -> what is shown. A function of a module: processes send each other its name.
"""


class Report(NamedTuple):
    """One of a layer, about one micro-batch. Layers that use the same name report to the same number."""

    name: str
    kind: Literal["loss", "mean", "sum"]
    """A loss is averaged over rows, added over layers, and trained on; a metric's mean is over all rows that were
    reported, its sum over rows and layers."""
    per_row: Tensor  # float [B]; of a metric with `finish` [B, n] too
    weight: float = 1.0  # of a loss, in what training minimises
    finish: Finish | None = None
