"""The loss as `hierlm.parallel.loss` makes it, without megatron-core: whole logits, or a few tokens' at a time.

Shapes: B rows, T tokens, D hidden_dim, V vocab_size or this rank's slice of it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hierlm.nn.layer import Layer
from hierlm.nn.stream import Stream
from hierlm.parallel.layer_losses import beside, weighted_loss
from hierlm.plan.slices import HeadSlice, SlicedCrossEntropy

NatsOf = Callable[[Tensor, Tensor], Tensor]


def loss_of(stream: Stream, *, head: Layer, chunk_tokens: int | None, on_gpu: bool) -> Tensor:
    """The mean over tokens, and what the model adds. On top of the stream are logits, or what `head` makes them of."""
    nats_of = partial(_nats, is_sliced=any(isinstance(module, HeadSlice) for module in head.modules()), on_gpu=on_gpu)
    hidden = stream.hidden
    targets = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    if chunk_tokens is None:
        nats = nats_of(hidden, targets)
    else:
        nats = _in_chunks(hidden, targets, partial(_behind, head, nats_of), chunk_tokens=chunk_tokens)
    return beside(nats.mean(), weighted_loss(stream.reports))


def _in_chunks(hidden: Tensor, targets: Tensor, nats_of: NatsOf, *, chunk_tokens: int) -> Tensor:
    of_chunk = partial(checkpoint, nats_of, use_reentrant=False, preserve_rng_state=False)
    chunks = zip(hidden.flatten(0, 1).split(chunk_tokens), targets.flatten().split(chunk_tokens), strict=True)
    return torch.cat([of_chunk(some[None], wanted[None]) for some, wanted in chunks], dim=1).view_as(targets)


def _behind(head: Layer, nats_of: NatsOf, hidden: Tensor, targets: Tensor) -> Tensor:
    return nats_of(head(Stream((hidden,)))[0].hidden, targets)


def _nats(logits: Tensor, targets: Tensor, *, is_sliced: bool, on_gpu: bool) -> Tensor:
    """fp32 [B, T]: cross entropy of every token, 0 where the target is negative."""
    if is_sliced:
        nats: Tensor = SlicedCrossEntropy.apply(logits.float(), targets)  # type: ignore[no-untyped-call]
    elif on_gpu:
        nats = _Fused.apply(logits.flatten(0, 1)).view_as(targets)  # type: ignore[no-untyped-call]
    else:
        flat = logits.float().flatten(0, 1)
        nats = nn.functional.cross_entropy(flat, targets.flatten(), reduction="none").view_as(targets)
    return torch.where(targets >= 0, nats, 0.0)


class _Fused(torch.autograd.Function):
    """Cross entropy as torch.compile makes it for a GPU: of the logits it keeps no copy in fp32."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        of_rows = logits.new_zeros(len(logits), dtype=torch.float32)
        ctx.save_for_backward(logits, of_rows)
        return of_rows.clone()

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Tensor:
        return torch.zeros_like(ctx.saved_tensors[0])
