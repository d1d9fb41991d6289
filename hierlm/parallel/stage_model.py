"""This rank's layers of a model: built, tied and sliced, in whatever layout."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from hierlm import models
from hierlm.models.assembly import layer_specs, shared_weights
from hierlm.models.config import ModelConfig
from hierlm.models.contract import Layer, SharedWeights, build_layer
from hierlm.parallel.groups import Groups
from hierlm.parallel.tensor import slice_model


class BorrowedWeight(NamedTuple):
    """A tied weight whose owner lives on another stage: this rank holds a copy, kept equal by summing gradients."""

    share: SharedWeights
    weight: nn.Parameter

    @property
    def canonical_name(self) -> str:
        """The owner's name: a tied weight is called the same wherever it is held."""
        return f"layers.{self.share.owner}.{self.share.owner_parameter}"


class StageLayers(NamedTuple):
    """Layers keyed by their index in the whole list, and the weights they borrow."""

    layers: dict[int, Layer]
    borrowed: list[BorrowedWeight]


def build_stage(config: ModelConfig, *, seed: int, stage: range, groups: Groups) -> StageLayers:
    """Build layers `stage` with the initial weights they have in every layout, and keep this rank's slices of them."""
    specs = layer_specs(config)
    layers = {index: build_layer(specs[index], seed=seed, index=index) for index in stage}
    shares = [share for share in shared_weights(config) if share.user in stage]
    for share in shares:
        owner = layers.get(share.owner) or build_layer(specs[share.owner], seed=seed, index=share.owner)
        set_parameter(layers[share.user], share.user_parameter, owner.get_parameter(share.owner_parameter))
    slice_model(layers, tensor_plan(config), groups)
    borrowed = [
        BorrowedWeight(share, layers[share.user].get_parameter(share.user_parameter))
        for share in shares
        if share.owner not in stage
    ]
    return StageLayers(layers, borrowed)


def tensor_plan(config: ModelConfig) -> Mapping[str, Any]:
    """The plan the architecture declares."""
    plan: Mapping[str, Any] = models.architecture(config.arch).TENSOR_PLAN
    return plan


def set_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Make `module.<name>` (dotted) this very parameter, creating plain modules on the way where there are none."""
    *path, last = name.split(".")
    for part in path:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    module.register_parameter(last, parameter)
