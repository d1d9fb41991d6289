"""What an objective makes of rows of the data, and what an evaluation is told of its split.

Shapes: n rows of this data-parallel rank, T tokens.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor

from data_pipeline.image_shape import Kind
from hierlm.nn.inputs import TOKENS, Inputs


class Batch(NamedTuple):
    """One rank's rows of a step or of a pass of an evaluation."""

    inputs: Inputs  # `tokens` int64 [n, T], and what else is said of them
    targets: Tensor  # int64 [n, T]; negative where there is nothing to foretell
    weights: Tensor | None = None  # fp32 [n, T]: how much each target counts; None: all alike
    starts: Tensor | None = None  # bool [n]: the row begins a new stream, its memory must be reset

    @property
    def tokens(self) -> Tensor:
        return self.inputs[TOKENS]

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        """With what the model reads and is judged by moved; masks over rows stay."""
        inputs = {name: move(tensor) for name, tensor in self.inputs.items()}
        weights = None if self.weights is None else move(self.weights)
        return self._replace(inputs=inputs, targets=move(self.targets), weights=weights)

    def on_device(self) -> list[Tensor]:
        """What `moved` moves."""
        return [*self.inputs.values(), self.targets, *([] if self.weights is None else [self.weights])]


class Source(Protocol):
    """What a split says of itself: tokens over bytes of its text, and what it is made of."""

    @property
    def tokens_per_byte(self) -> float: ...
    @property
    def kind(self) -> Kind: ...


class Drawn(NamedTuple):
    """The same of rows that were drawn from several."""

    tokens_per_byte: float
    kind: Kind
