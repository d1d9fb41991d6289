"""From OptimConfig to a torch optimizer; the learning rate is set before every step from the Timeline."""

from collections.abc import Mapping

import torch
from torch import nn

from hierlm.nn.parameter_kinds import Kind
from hierlm.optim.config import OptimConfig
from hierlm.optim.optimizers import optimizer
from hierlm.optim.param_groups import in_buckets, param_groups
from hierlm.optim.phased import GroupTerms, Phased
from hierlm.optim.rules import OwnTerms
from hierlm.optim.state_names import StateNames
from hierlm.phases.trainable import TrainedIn


def build_optimizer(
    config: OptimConfig,
    model: nn.Module,
    *,
    kinds: Mapping[str, Kind],
    trained_in: Mapping[str, TrainedIn] | None = None,
    own: Mapping[str, OwnTerms] | None = None,
    bucket_values: int | None = None,
) -> Phased:
    """The optimizer of `config.name`, of which phases may leave out parameters.

    `kinds` says of each parameter, by name, what it is, `trained_in` which phases train it (by default all do), and
    `own` what rules say of it. `bucket_values`: groups are parted into buckets of at most so many values.
    """
    groups = param_groups(
        model.named_parameters(), kinds=kinds, weight_decay=config.weight_decay, trained_in=trained_in, own=own
    )
    if bucket_values is not None:
        groups = in_buckets(groups, most_values=bucket_values)
    terms = [GroupTerms(group.pop("trained_in"), group.pop("pace")) for group in groups]
    return Phased(optimizer(config.name).build(groups, config), terms, names=StateNames.of(config.name))


def reset_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Forget all moments and step counts, in place, so that whoever holds the tensors sees it."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
