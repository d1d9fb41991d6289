"""Pooling of groups that end where a boundary says, and back (dynamic token pooling, 2211.09761, section 2.1).

Shapes: B batch, T tokens, G groups (of the row that has most), D hidden_dim.
Token t reads the group that ended last, at t or before; before the first it reads a learned null group. An unfinished
group is read by nobody. The stack of the stream is (logits of the boundaries for the kind `entropy`,) fine,
boundaries, coarse.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hierlm.nn.basic.initialisation import initialise
from hierlm.nn.basic.normalisation import make_norm
from hierlm.nn.inputs import TOKENS
from hierlm.nn.layer import Cache, Layer, Memory
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.resampling.boundaries import (
    PREDICTED,
    BoundaryKind,
    BoundaryPredictor,
    binomial_penalty,
    entropies,
    entropy_spikes,
    fixed_boundaries,
    hard_boundaries,
    sampled_boundaries,
)
from hierlm.nn.resampling.unigram import UnigramEnds
from hierlm.nn.shape import BlockShape
from hierlm.nn.stream import Stream

BOUNDARY_LOSS = "boundary"
"""What the loss of predicted boundaries is called."""


class BoundaryRule(NamedTuple):
    """How boundaries are found."""

    kind: BoundaryKind
    fixed_factor: int
    gumbel_rate: float
    gumbel_temperature: float
    max_groups: int | None
    separators: tuple[int, ...] = ()
    unigram_ends: UnigramEnds | None = None


class PoolGroups(Layer):
    """Finds the boundaries and pushes them and the means of the groups, the null group first."""

    decodes_rows_alone = True
    """Groups end at different tokens in different rows, so a cache holds one row."""

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"null": "vector"}

    def __init__(self, *, shape: BlockShape, rule: BoundaryRule) -> None:
        super().__init__()
        self.rule = rule
        self.predictor = BoundaryPredictor(shape) if rule.kind in PREDICTED else None
        self.null = nn.Parameter(torch.empty(shape.hidden_dim))
        self.norm = make_norm(shape.hidden_dim, shape.norm)
        initialise(self)
        nn.init.normal_(self.null, std=0.02)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        x = stream.hidden
        boundaries, logits = self._boundaries(stream, first=0)
        stream = self._reporting(stream, boundaries, logits)
        boundaries = self._within_maximum(boundaries, num_before=0)
        means = group_means(x, boundaries, num_groups=self.rule.max_groups)
        coarse = self.norm(torch.cat((self.null.repeat(x.shape[0], 1, 1), means), dim=1))
        return stream.with_levels(*self._below(logits), x, boundaries, coarse), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        x = stream.hidden
        pending, num_tokens, num_groups = (x[:, :0], 0, 0) if cache is None else cache
        boundaries, logits = self._boundaries(stream, first=num_tokens)
        boundaries = self._within_maximum(boundaries, num_before=num_groups)
        unfinished = torch.cat((pending, x), dim=1)
        ends = torch.cat((boundaries.new_zeros(1, pending.shape[1], 1), boundaries), dim=1)
        coarse = group_means(unfinished, ends, num_groups=None)
        num_new = coarse.shape[1]
        pending = unfinished[:, int(ends[0, :, 0].nonzero().max()) + 1 :] if num_new else unfinished
        if cache is None:
            coarse = torch.cat((self.null.repeat(1, 1, 1), coarse), dim=1)
        stream = stream.with_levels(*self._below(logits), x, boundaries, self.norm(coarse))
        return stream, (pending, num_tokens + x.shape[1], num_groups + num_new)

    def _boundaries(self, stream: Stream, *, first: int) -> tuple[Tensor, Tensor | None]:
        """(boundaries, the predictor's logits if there is one), each [B, T, 1]."""
        x, kind = stream.hidden, self.rule.kind
        if kind == "fixed":
            return fixed_boundaries(x, first=first, factor=self.rule.fixed_factor), None
        if self.predictor is None:
            tokens = stream.inputs[TOKENS]
            marks = torch.isin(tokens, torch.tensor(self.rule.separators, device=tokens.device))
            return marks.to(x.dtype)[..., None], None
        logits = self.predictor(x)
        if kind == "gumbel" and self.training:
            return sampled_boundaries(logits, temperature=self.rule.gumbel_temperature), logits
        return hard_boundaries(logits), logits

    def _reporting(self, stream: Stream, boundaries: Tensor, logits: Tensor | None) -> Stream:
        """How many tokens end a group, and what the predictor is trained on."""
        kind = self.rule.kind
        if kind != "fixed":
            stream = stream.with_mean("boundary_rate", boundaries.detach().float().mean(dim=(1, 2)))
        if kind == "gumbel":
            return stream.with_loss(BOUNDARY_LOSS, binomial_penalty(boundaries, rate=self.rule.gumbel_rate))
        ends_in = self.rule.unigram_ends
        if logits is not None and ends_in is not None and (self.training or ends_in.is_at_hand):
            ends = ends_in(stream.inputs[TOKENS]).to(logits.dtype)[..., None]
            return stream.with_loss(BOUNDARY_LOSS, boundary_loss(logits, ends))
        return stream

    def _below(self, logits: Tensor | None) -> tuple[Tensor, ...]:
        """The level that BoundaryLoss compares with the model's own uncertainty, and takes off."""
        return (logits,) if self.rule.kind == "entropy" and logits is not None else ()

    def _within_maximum(self, boundaries: Tensor, *, num_before: int) -> Tensor:
        """Groups past the stated maximum never end, so that later tokens go on reading the last one that did."""
        if self.rule.max_groups is None:
            return boundaries
        return boundaries * (num_before + _counted(boundaries) <= self.rule.max_groups)


class ReadGroups(Layer):
    """Pops coarse level and boundaries: each token adds the group it may read."""

    decodes_rows_alone = True

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        *below, x, boundaries, coarse = stream.levels
        return stream.with_levels(*below, x + _read(coarse, boundaries)), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        *below, x, boundaries, coarse = stream.levels
        readable = coarse if cache is None else torch.cat((cache[0], coarse), dim=1)
        return stream.with_levels(*below, x + _read(readable, boundaries)), (readable[:, -1:],)


class BoundaryLoss(Layer):
    """Last layer of the entropy kind: what was predicted before the pooling, against what the logits say."""

    def __init__(self) -> None:
        super().__init__()
        self.entropies: Callable[[Tensor], Tensor] = entropies
        """Of logits [B, T, V] -> [B, T]; replaced where a rank holds a slice of the vocabulary."""

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        boundary_logits, logits = stream.levels
        spikes = entropy_spikes(self.entropies(logits.detach()))
        loss = boundary_loss(boundary_logits, spikes.to(boundary_logits.dtype))
        return stream.with_levels(logits).with_loss(BOUNDARY_LOSS, loss), memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        return stream.with_levels(stream.hidden), cache


def boundary_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross entropy, [B, T, 1] -> the mean over the tokens of each row, nats, fp32 [B]."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none").mean(dim=(1, 2))


def group_means(x: Tensor, boundaries: Tensor, *, num_groups: int | None) -> Tensor:
    """x [B, T, D], boundaries [B, T, 1] -> means of the groups that end, [B, G, D]; zeros where a row has fewer.

    A straight-through gradient reaches the boundaries through the weight of each token in its group.
    """
    batch, _, width = x.shape
    ended = _counted(boundaries)
    group = ended - boundaries.float()
    total = ended[:, -1:]
    size = int(total.max()) if num_groups is None else num_groups
    row = torch.arange(batch, device=x.device)[:, None] * (size + 1)
    index = (torch.where(group < total, group, size).detach()[..., 0].long() + row).flatten()
    weights = (1 + group - group.detach()).to(x.dtype)
    sums = x.new_zeros(batch * (size + 1), width).index_add(0, index, (x * weights).flatten(0, 1))
    counts = x.new_zeros(batch * (size + 1), 1).index_add(0, index, weights.flatten(0, 1))
    means = sums / counts.clamp(min=1)
    return means.unflatten(0, (batch, size + 1))[:, :size]


def _counted(boundaries: Tensor) -> Tensor:
    """Groups that have ended at each token or before, fp32 [B, T, 1]: half precision cannot count past 256."""
    return boundaries.float().cumsum(dim=1)


def _read(coarse: Tensor, boundaries: Tensor) -> Tensor:
    """coarse [B, 1 + G, D], the group read before these tokens first -> [B, T, D]."""
    batch, size, _ = coarse.shape
    row = torch.arange(batch, device=coarse.device)[:, None] * size
    index = _counted(boundaries.detach())[..., 0].long() + row
    return coarse.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)
