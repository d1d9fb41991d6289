"""What DeepSpeed and megatron-core hang on parameters and gradients."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hierlm.parallel.seams.handle import Field, Handle, Method

COPY, SLICE, PADDING = "ds_pipe_replicated", "tensor_model_parallel", "_zero_padding"
"""Names that both sides know (`hierlm.parallel.seams.spoken`)."""


class PartitionedParameter(Handle):
    """A parameter at stage 3, empty between passes."""

    of = "deepspeed.runtime.zero.partition_parameters"

    ds_tensor = Field[Tensor]("this rank's share of the weight is looked at and compared")
    ds_shape = Field[torch.Size]("it tells slices from whole tensors in a universal checkpoint")
    ds_numel = Field[int]("the last rank's share ends in padding")
    ds_process_group = Field[Any]("the rank in it says which share this is")
    partition_numel = Field[Any]("a share has so many values")


class LinkedParameter(Handle):
    """A parameter at stages 1 and 2, linked to the stretch of full-precision values that this rank updates."""

    of = "deepspeed.utils.mixed_precision_linkage"

    link = Field[Any]("a universal checkpoint is read into the stretch that this rank updates", name="_hp_mapping")


class Link(Handle):
    """From a parameter to its full-precision stretch."""

    of = "deepspeed.utils.tensor_fragment.tensor_fragment"

    here = Field[Any]("where in the parameter the stretch begins", name="lp_fragment_address")
    there = Method[Any]("where in the owner the stretch begins", name="get_hp_fragment_address")


class Address(Handle):
    """Either end of a link."""

    of = "deepspeed.utils.tensor_fragment.fragment_address"

    start = Field[int]("the stretch begins there")
    numel = Field[int]("the stretch has so many values")


class Stretch(NamedTuple):
    """What this rank updates of a parameter."""

    start: int  # in the flattened parameter
    owner_start: int  # in the flat tensor that the optimizer updates
    numel: int


def require_parameters(parameters: Sequence[Any], *, stage_3: bool) -> None:
    """UserError where those of a ZeRO optimizer lack anything of these lists."""
    if stage_3:
        for parameter in parameters[:1]:
            PartitionedParameter(parameter).require()
        return
    for parameter in parameters:
        link = LinkedParameter(parameter).require().link
        if link is not None:
            found = Link(link).require()
            for address in (found.here, found.there()):
                Address(address).require()
            return


def stored(parameter: nn.Parameter) -> Tensor:
    """What this rank stores of a parameter between passes."""
    found: Tensor = getattr(parameter, "ds_tensor", parameter)
    return found


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether it is empty but around its own layer, as at stage 3."""
    return hasattr(parameter, PartitionedParameter.ds_tensor.seam.name)


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """The shape it has inside passes."""
    found: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return found


def own_share(parameter: Any) -> tuple[int, int, int]:
    """At stage 3: (first value, number of values, padding not counted; number with padding) of this rank's share."""
    theirs = PartitionedParameter(parameter)
    size = theirs.partition_numel()
    start = dist.get_rank(theirs.ds_process_group) * size
    return start, min(size, max(theirs.ds_numel - start, 0)), size


def own_stretch(parameter: Any) -> Stretch | None:
    """At stages 1 and 2: what this rank updates of it; None where others do."""
    link = LinkedParameter(parameter).link
    if link is None:
        return None
    found = Link(link)
    here, there = Address(found.here), Address(found.there())
    return Stretch(here.start, there.start, here.numel)


def mark_copy(parameter: nn.Parameter, is_copy: bool) -> None:
    """Say whether a tied weight is counted where its owner lives, on another stage."""
    setattr(parameter, COPY, is_copy)


def is_copy(parameter: nn.Parameter) -> bool:
    """Whether another stage holds the same weight and counts it in norms."""
    return bool(getattr(parameter, COPY, False))


def is_slice(parameter: nn.Parameter) -> bool:
    """Whether other tensor-parallel ranks hold other values of the weight."""
    return bool(getattr(parameter, SLICE, False))


def mark_padding(gradient: Tensor) -> Tensor:
    """Itself, said to fill a partition."""
    setattr(gradient, PADDING, True)
    return gradient


def mark_summed(parameter: nn.Parameter) -> None:
    """Say that tensor-parallel ranks see parts of the gradient of a weight that all hold whole, and add them up."""
    parameter.gradient_is_summed = True  # type: ignore[attr-defined]


def is_summed(parameter: nn.Parameter) -> bool:
    """Whether it was so marked."""
    return bool(getattr(parameter, "gradient_is_summed", False))


def is_padding(gradient: Tensor) -> bool:
    """Whether a ZeRO optimizer made up the gradient to fill a partition."""
    return bool(getattr(gradient, PADDING, False))
