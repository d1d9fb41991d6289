"""Dropout at the sites that a model declares, each with the train-time switch that sets its rate.

A place where nothing is dropped holds no site, so no switch can reach it. What is dropped is drawn row by row
(`hierlm.nn.draws`): the same for every micro-batch size and in every layout.

Shapes: B rows of the micro-batch.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hierlm.nn.draws import kept_of_rows, kept_of_step
from hierlm.nn.shape import Rate

if TYPE_CHECKING:
    from hierlm.nn.layer import StepContext


class Dropout(nn.Module):
    """In training zeroes numbers [B, ...] with probability `rate` and scales the others up.

    A plain number is a rate of the switch `dropout`. With `cut_dim`, counted from the end, whoever runs the layer may
    hold only a part of that dimension, and says which in `part`: then it drops what the whole would have dropped there.
    """

    def __init__(self, rate: Rate | float, *, cut_dim: int | None = None) -> None:
        super().__init__()
        declared = rate if isinstance(rate, Rate) else Rate(rate)
        self.rate, self.switch = declared.value, declared.switch
        self.cut_dim = cut_dim
        self.part = (0, 1)  # index, number of parts
        self.number = 0  # among the sites of its layer

    def forward(self, x: Tensor) -> Tensor:
        return times(x, self.kept(x.shape, like=x), scale=1 / self.share) if self.is_active else x

    @property
    def is_active(self) -> bool:
        """Whether this pass drops anything."""
        return self.training and self.rate > 0

    @property
    def share(self) -> float:
        """How much is kept on average."""
        return 1 - self.rate

    def kept(self, shape: Sequence[int], *, like: Tensor) -> Tensor:
        """What is kept of [B, ...], as `times` takes it."""
        part = () if self.cut_dim is None or self.part[1] == 1 else (self.cut_dim, *self.part)
        return kept_of_rows(like, self.share, shape=shape, site=self.number, part=part)

    def begin_step(self, context: "StepContext") -> None:
        """Take the rate of the phase, where it names one."""
        rate = context.switches.get(self.switch)
        if rate is not None:
            self.rate = float(rate)  # type: ignore[arg-type]


class SharedDropout(Dropout):
    """On what all rows have in common, of any shape: one draw for all rows and layers of a step."""

    def kept(self, shape: Sequence[int], *, like: Tensor) -> Tensor:
        return kept_of_step(like, self.share, site=self.number)


def times(x: Tensor, kept: Tensor, *, scale: float) -> Tensor:
    """`x` where it is kept, times `scale`; where `kept` are numbers they have the scale in them already."""
    if kept.dtype != torch.bool:
        return x * kept
    product: Tensor = _Masked.apply(x, kept, scale)
    return product


class _Masked(torch.autograd.Function):
    """x mask scale in one kernel, keeping nothing but the mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(x, mask, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(gradient, mask, ctx.scale), None, None


def site_or_none(rate: Rate | float | None, *, cut_dim: int | None = None) -> nn.Module:
    """A site, or what does nothing where none is declared."""
    return nn.Identity() if rate is None else Dropout(rate, cut_dim=cut_dim)


def number_sites(layer: nn.Module) -> None:
    """Tell the sites of a layer apart, so that what one draws depends on no other."""
    for number, site in enumerate(sites(layer)):
        site.number = number


def take_dropout(layer: nn.Module, context: "StepContext") -> None:
    """Set the rates of the sites below `layer` to what the phase says of their switches."""
    for site in sites(layer):
        site.begin_step(context)


def sites(layer: nn.Module) -> list[Dropout]:
    """Those at and below `layer`."""
    return [module for module in layer.modules() if isinstance(module, Dropout)]
