"""Which parameters are updated together: decayed or not, and trained in the same phases."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from hierlm.phases.trainable import TrainedIn


def param_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    weight_decay: float,
    trained_in: Mapping[str, TrainedIn] | None = None,
) -> list[dict[str, Any]]:
    """Matrices with weight decay, vectors (biases, norm gains) without; each apart by the phases that train it.

    Without `trained_in` that is every phase. An empty group is left out; the order inside a group is the model's.
    """
    phases_of, groups = trained_in or {}, dict[TrainedIn, dict[str, list[nn.Parameter]]]()
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            kinds = groups.setdefault(phases_of.get(name, ()), {"decay": [], "no_decay": []})
            kinds["decay" if parameter.dim() >= 2 else "no_decay"].append(parameter)
    decays = {"decay": weight_decay, "no_decay": 0.0}
    return [
        {"name": kind, "params": parameters, "weight_decay": decays[kind], "trained_in": phases}
        for phases, kinds in groups.items()
        for kind, parameters in kinds.items()
        if parameters
    ]
