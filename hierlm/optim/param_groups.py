"""Which parameters are updated together: decayed alike, at the same pace, and trained in the same phases."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from hierlm.nn.parameter_kinds import Kind
from hierlm.optim.rules import OwnTerms, Pace
from hierlm.phases.trainable import TrainedIn

DECAYED: frozenset[Kind] = frozenset({"matrix", "embedding"})


def param_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    *,
    kinds: Mapping[str, Kind],
    weight_decay: float,
    trained_in: Mapping[str, TrainedIn] | None = None,
    own: Mapping[str, OwnTerms] | None = None,
) -> list[dict[str, Any]]:
    """Matrices and embeddings with weight decay, vectors without; each apart by the phases that train it and its pace.

    `kinds` holds every name (`hierlm.nn.parameter_kinds`). Without `trained_in` that is every phase. What `own` says of
    a parameter goes before its kind; where it says nothing, groups are those without it. An empty group is left out;
    the order inside a group is the model's.
    """
    phases_of, own = trained_in or {}, own or {}
    decays = {"decay": weight_decay, "no_decay": 0.0}
    groups = dict[tuple[TrainedIn, Pace], dict[str, list[nn.Parameter]]]()
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            terms = own.get(name, OwnTerms())
            by_decay = groups.setdefault((phases_of.get(name, ()), terms.pace), {"decay": [], "no_decay": []})
            by_decay.setdefault(_decay_name(terms.weight_decay, kinds[name], decays), []).append(parameter)
    return [
        {"name": decay, "params": parameters, "weight_decay": decays[decay], "trained_in": phases, "pace": pace}
        for (phases, pace), by_decay in groups.items()
        for decay, parameters in by_decay.items()
        if parameters
    ]


def in_buckets(groups: Iterable[dict[str, Any]], *, most_values: int) -> list[dict[str, Any]]:
    """The same groups in parts of at most so many values, one after the other; a larger parameter is a part alone.

    An update is elementwise, so nothing depends on it; what is updated together can be exchanged together.
    """
    parted = []
    for group in groups:
        buckets: list[list[nn.Parameter]] = []
        size = most_values
        for parameter in group["params"]:
            size += parameter.numel()
            if size > most_values:
                buckets.append([])
                size = parameter.numel()
            buckets[-1].append(parameter)
        parted += [{**group, "params": bucket} for bucket in buckets]
    return parted


def _decay_name(own: float | None, kind: Kind, decays: dict[str, float]) -> str:
    """The name of a parameter's decay, which is entered in `decays` if it is new."""
    by_kind = "decay" if kind in DECAYED else "no_decay"
    if own is None or own == decays[by_kind]:
        return by_kind
    name = next((name for name, decay in decays.items() if decay == own), f"decay_{own:g}")
    decays[name] = own
    return name
