"""This rank's layers of a model: built, tied and sliced, in whatever layout."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from hierlm import models
from hierlm.models.assembly import layer_specs, shared_weights
from hierlm.models.config import ModelConfig
from hierlm.nn.layer import Layer, SharedWeights, build_layer
from hierlm.parallel.groups import Groups
from hierlm.parallel.host_memory import give_back_freed
from hierlm.parallel.tensor import slice_layer


class BorrowedWeight(NamedTuple):
    """A tied weight whose owner lives on another stage: this rank holds one copy for all of its layers that read it.

    The copies of all stages are kept equal by summing their gradients.
    """

    owner: int
    owner_parameter: str
    weight: nn.Parameter

    @property
    def canonical_name(self) -> str:
        """The owner's name: a tied weight is called the same wherever it is held."""
        return f"layers.{self.owner}.{self.owner_parameter}"


class StageLayers(NamedTuple):
    """Layers keyed by their index in the whole list, and the weights they borrow."""

    layers: dict[int, Layer]
    borrowed: list[BorrowedWeight]


def build_stage(
    config: ModelConfig,
    *,
    seed: int,
    stage: Sequence[int],
    groups: Groups,
    partition: Callable[[Layer], None] = lambda layer: None,
) -> StageLayers:
    """Build layers `stage` with the initial weights they have in every layout, and keep this rank's slices of them.

    One layer after another is built whole, cut, and left: a rank never holds more than its own part and one layer.
    `partition` takes from each, once cut, what other data-parallel ranks keep.
    A stage is a range; a plan leaves out layers that are like their neighbours.
    """
    specs, plan = layer_specs(config), tensor_plan(config)
    shares = [share for share in shared_weights(config) if share.user in stage]
    elsewhere = {share.owner for share in shares} - set(stage)
    owned: dict[tuple[int, str], nn.Parameter] = {}
    layers: dict[int, Layer] = {}
    # owners first, those of other stages too: each is built once, whatever number of weights and users it has
    for index in (*sorted(elsewhere), *stage):
        layer = build_layer(specs[index], seed=seed, index=index)
        slice_layer(layer, index, plan, groups)
        partition(layer)
        names = {share.owner_parameter for share in shares if share.owner == index}
        owned |= {(index, name): layer.get_parameter(name) for name in names}
        if index not in elsewhere:
            layers[index] = layer
        give_back_freed()
    for share in shares:
        # the user's own was cut by the same rule: the one is put in the other's place
        set_parameter(layers[share.user], share.user_parameter, owned[share.owner, share.owner_parameter])
    return StageLayers(layers, _borrowed(layers, [share for share in shares if share.owner in elsewhere]))


def _borrowed(layers: Mapping[int, Layer], shares: Sequence[SharedWeights]) -> list[BorrowedWeight]:
    """One for each owner's parameter, after slicing."""
    first_users = {(share.owner, share.owner_parameter): share for share in reversed(shares)}
    return [
        BorrowedWeight(owner, name, layers[share.user].get_parameter(share.user_parameter))
        for (owner, name), share in sorted(first_users.items())
    ]


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
