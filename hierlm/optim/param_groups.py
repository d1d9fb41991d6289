"""Which parameters are updated together: decayed or not, and trained in the same phases."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from hierlm.nn.parameter_kinds import Kind
from hierlm.phases.trainable import TrainedIn

DECAYED: frozenset[Kind] = frozenset({"matrix", "embedding"})


def param_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    kinds: Mapping[str, Kind],
    weight_decay: float,
    trained_in: Mapping[str, TrainedIn] | None = None,
) -> list[dict[str, Any]]:
    """Matrices and embeddings with weight decay, vectors without; each apart by the phases that train it.

    `kinds` holds every name (`hierlm.nn.parameter_kinds`). Without `trained_in` that is every phase. An empty group is
    left out; the order inside a group is the model's.
    """
    phases_of, groups = trained_in or {}, dict[TrainedIn, dict[str, list[nn.Parameter]]]()
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            by_decay = groups.setdefault(phases_of.get(name, ()), {"decay": [], "no_decay": []})
            by_decay["decay" if kinds[name] in DECAYED else "no_decay"].append(parameter)
    decays = {"decay": weight_decay, "no_decay": 0.0}
    return [
        {"name": kind, "params": parameters, "weight_decay": decays[kind], "trained_in": phases}
        for phases, by_decay in groups.items()
        for kind, parameters in by_decay.items()
        if parameters
    ]
