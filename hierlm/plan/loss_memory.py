"""The loss as `hierlm.parallel.loss` makes it, without megatron-core: whole logits, or a few tokens' at a time.

Shapes: B rows, T tokens, D hidden_dim, V vocab_size or this rank's slice of it.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hierlm.models.contract import Layer, Stream
from hierlm.plan.slices import HeadSlice, SlicedCrossEntropy


def loss_of(stream: Stream, *, head: Layer, chunk_tokens: int | None) -> Tensor:
    """The mean over tokens, and what the model adds. On top of the stream are logits, or what `head` makes them of."""
    hidden = stream.hidden
    targets = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    if chunk_tokens is None:
        nats = _nats(hidden, targets, head=head)
    else:
        nats = _in_chunks(hidden, targets, head=head, chunk_tokens=chunk_tokens)
    penalty = stream.penalty
    return (nats if penalty is None else nats + penalty).mean()


def _in_chunks(hidden: Tensor, targets: Tensor, *, head: Layer, chunk_tokens: int) -> Tensor:
    of_chunk = partial(checkpoint, partial(_behind, head), use_reentrant=False, preserve_rng_state=False)
    chunks = zip(hidden.flatten(0, 1).split(chunk_tokens), targets.flatten().split(chunk_tokens), strict=True)
    return torch.cat([of_chunk(some[None], wanted[None]) for some, wanted in chunks], dim=1).view_as(targets)


def _behind(head: Layer, hidden: Tensor, targets: Tensor) -> Tensor:
    return _nats(head(Stream((hidden,)))[0].hidden, targets, head=head)


def _nats(logits: Tensor, targets: Tensor, *, head: Layer) -> Tensor:
    """fp32 [B, T]: cross entropy of every token, 0 where the target is negative."""
    if any(isinstance(module, HeadSlice) for module in head.modules()):
        nats: Tensor = SlicedCrossEntropy.apply(logits.float(), targets)  # type: ignore[no-untyped-call]
    else:
        flat = logits.float().flatten(0, 1)
        nats = nn.functional.cross_entropy(flat, targets.flatten(), reduction="none").view_as(targets)
    return torch.where(targets >= 0, nats, 0.0)
