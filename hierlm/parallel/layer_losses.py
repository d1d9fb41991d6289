"""Losses that layers report, joined once per stage to what DeepSpeed runs the backward pass on.

A stage that is not the last runs it on the tensor it has sent, so its losses get their gradient through an identity on
that tensor; the last one runs it on the objective, whose value stays the objective's alone. They are not joined to a
level: a level that nobody reads gets no gradient, and cross entropy overwrites sliced logits in place.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hierlm.nn.report import Report
from hierlm.parallel.boundary import Payload


def weighted_loss(reports: Sequence[Report]) -> Tensor | None:
    """The weighted sum of all losses, each the mean over rows, nats; None where nothing with a gradient was reported.

    Rows of a micro-batch count alike, and micro-batches of a step have equally many: the mean over all of them is the
    same for every micro-batch size.
    """
    losses = [report for report in reports if report.kind == "loss" and report.per_row.requires_grad]
    if not losses or not torch.is_grad_enabled():
        return None
    return torch.stack([report.weight * report.per_row.float().mean() for report in losses]).sum()


def beside(objective: Tensor, added: Tensor | None) -> Tensor:
    """The objective's value with the gradient of both; not finite where either is not."""
    return objective if added is None else objective + (added - added.detach())


def joined(payload: Payload, added: Tensor | None, *, share: float) -> Payload:
    """The payload, through which the backward pass gives `added` the gradient `share`: 1 / micro-batches of a step."""
    if added is None:
        return payload
    if isinstance(payload, Tensor):
        return _Joined.apply(payload, added, share)  # type: ignore[no-any-return,no-untyped-call]
    return _Joined.apply(payload[0], added, share), *payload[1:]  # type: ignore[no-untyped-call]


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, payload: Tensor, added: Tensor, share: float) -> Tensor:
        ctx.share = share
        ctx.save_for_backward(added)
        return payload.view_as(payload)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        (added,) = ctx.saved_tensors
        # a loss that is not finite spoils its gradient, so that the step is left out on every rank
        return gradient, 0 * added.detach() + ctx.share, None
