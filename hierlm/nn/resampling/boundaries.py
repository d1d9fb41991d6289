"""Where a group of tokens ends: b_t = 1 means "a group ends after token t" (dynamic token pooling, 2211.09761).

Shapes: B batch, T tokens, D hidden_dim, F ffn_dim. Boundaries are 0 or 1 in the type of the hidden vectors, [B, T, 1].
"""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.basic.feed_forward import FeedForward
from hierlm.nn.draws import uniform_of_rows
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.shape import BlockShape

BoundaryKind = Literal["fixed", "whitespace", "unigram", "entropy", "gumbel"]
PREDICTED = frozenset({"unigram", "entropy", "gumbel"})
THRESHOLD = 0.5


class BoundaryPredictor(nn.Module):
    """An MLP D -> F -> 1 on the vectors before the pooling; its logit > 0 is a boundary (section 2.2).

    The paper's, whatever the blocks' feed-forward is.
    """

    def __init__(self, shape: BlockShape) -> None:
        super().__init__()
        self.hidden = FeedForward(replace(shape, feed_forward=None, has_biases=True))
        self.hidden.contract = Linear(shape.ffn_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> logits [B, T, 1]."""
        logits: Tensor = self.hidden(x)
        return logits


def fixed_boundaries(like: Tensor, *, first: int, factor: int) -> Tensor:
    """Positions 0, k, 2k, ... of the text: the groups of an Hourglass of factor k."""
    positions = torch.arange(first, first + like.shape[1], device=like.device)
    marks = (positions % factor == 0).to(like.dtype)
    return marks[None, :, None].expand(like.shape[0], -1, 1)


def hard_boundaries(logits: Tensor) -> Tensor:
    """1 where the probability exceeds one half; no gradient."""
    return (logits > 0).to(logits.dtype)


def sampled_boundaries(logits: Tensor, *, temperature: float) -> Tensor:
    """Relaxed Bernoulli draws rounded to 0 or 1, with the gradient of the relaxed ones (section 2.2)."""
    uniform = uniform_of_rows(logits, site=0).clamp(1e-6, 1 - 1e-6)
    noise = uniform.log() - (-uniform).log1p()
    soft = torch.sigmoid((logits.float() + noise) / temperature)
    return _StraightThrough.apply(soft).to(logits.dtype)


class _StraightThrough(torch.autograd.Function):
    """Exactly 0 or 1 forwards, the identity backwards."""

    @staticmethod
    def forward(context: object, soft: Tensor) -> Tensor:
        return (soft > THRESHOLD).to(soft.dtype)

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return gradient


def binomial_penalty(boundaries: Tensor, *, rate: float) -> Tensor:
    """-log Binomial(number of boundaries; T, rate) / T of each row, nats per token, fp32 [B]."""
    total = boundaries.shape[1]
    count = boundaries.float().sum(dim=(1, 2))
    choose = torch.lgamma(torch.tensor(total + 1.0, device=count.device))
    choose = choose - torch.lgamma(count + 1) - torch.lgamma(total - count + 1)
    log_rate, log_rest = torch.log(torch.tensor([rate, 1 - rate], device=count.device))
    return -(choose + count * log_rate + (total - count) * log_rest) / total


def entropies(logits: Tensor) -> Tensor:
    """[..., V] -> nats [...], in fp64.

    Spikes compare them, and those of neighbours differ by little: sums in fp32 would decide by rounding, so that one
    layout sees a spike where another sees none.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    shifted = wide - wide.amax(dim=-1, keepdim=True)
    weights = shifted.exp()
    total = weights.sum(dim=-1, dtype=torch.float64)
    return total.log() - (weights * shifted).sum(dim=-1, dtype=torch.float64) / total


def entropy_spikes(entropy: Tensor) -> Tensor:
    """[B, T] -> bool [B, T, 1]: the prediction is less certain than at both of the two positions before.

    A position that is not there, before the row, hinders no spike: the first one always is one.
    """
    padded = F.pad(entropy, (2, 0), value=float("-inf"))
    return ((entropy > padded[:, 1:-1]) & (entropy > padded[:, :-2]))[..., None]
