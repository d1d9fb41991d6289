"""`train.log_gradient_norms`: the gradient norm of every layer at the steps that are logged."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from hierlm.metric_names import grad_norm_of_layer
from hierlm.models.assembly import canonical_names
from hierlm.models.config import ModelConfig
from hierlm.parallel.before_update import Gradients
from hierlm.phases.timeline import Moment
from hierlm.train.loop import Completed


class GradientNormsHook:
    """Looks at the gradients of a step that will be logged; `take` gives what it saw to the record."""

    def __init__(self, model: ModelConfig, *, is_logged: Callable[[int], bool]) -> None:
        """`is_logged` of a number of completed steps."""
        self._layers = sorted({int(name.split(".")[1]) for name in canonical_names(model)})
        self._is_logged = is_logged
        self._found: dict[int, Tensor] = {}

    def before_step(self) -> None:
        """What was seen before may not have been asked for yet."""

    def before_update(self, gradients: Gradients, moment: Moment) -> None:
        """Waits for nothing: the record reads it."""
        if self._is_logged(moment.step + 1):
            self._found[moment.step + 1] = gradients.layer_norms(self._layers[-1] + 1)

    def after_step(self, completed: Completed) -> None:
        """The record has taken it."""

    def on_stop(self, *, step: int) -> None:
        """Nothing is pending."""

    def take(self, step: int) -> dict[str, Any]:
        """Name of the metric -> norm, of the step that made `step` completed ones; empty where it was not looked at."""
        if step not in self._found:
            return {}
        norms = self._found.pop(step).tolist()
        return {grad_norm_of_layer(layer): norms[layer] for layer in self._layers}
