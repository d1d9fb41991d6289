"""Which parameters are decayed."""

from collections.abc import Iterable

from torch import nn


def param_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], *, weight_decay: float
) -> list[dict[str, object]]:
    """Two groups: matrices with weight decay; vectors (biases, norm gains) without.

    An empty group is left out; the order inside a group is that of the model.
    """
    trainable = [p for _, p in named_parameters if p.requires_grad]
    groups = (
        {"name": "decay", "params": [p for p in trainable if p.dim() >= 2], "weight_decay": weight_decay},
        {"name": "no_decay", "params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    )
    return [group for group in groups if group["params"]]
