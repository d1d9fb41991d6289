"""Pooling whole groups of k neighbours, unshifted: unit m stands for positions m*k .. m*k + k - 1.

Shapes: B batch, T fine positions, floor(T / k) units, D hidden_dim. A unit is only to be read from its last position
on; `CausalExpansion` and the multi-scale attentions keep to that.
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from hierlm.nn.basic.initialisation import initialise
from hierlm.nn.kernels.linear import Linear
from hierlm.nn.layer import Cache, Layer, Memory
from hierlm.nn.parameter_kinds import Kind
from hierlm.nn.stream import Stream

Downsampling = Literal["average", "convolution", "linear"]


class Downsample(nn.Module):
    """Mean of a group, or a causal convolution of stride k over the last `kernel_groups` groups (linear: one)."""

    def __init__(self, kind: Downsampling, *, hidden_dim: int, factor: int, kernel_groups: int) -> None:
        super().__init__()
        self.factor = factor
        self.width = factor * (kernel_groups if kind == "convolution" else 1)
        self.project = None if kind == "average" else Linear(self.width * hidden_dim, hidden_dim)

    def start(self, fine: Tensor) -> Tensor:
        """What lies before the first position: zeros [B, width - k, D]."""
        return fine.new_zeros(fine.shape[0], self.width - self.factor, fine.shape[2])

    def forward(self, fine: Tensor, pending: Tensor) -> tuple[Tensor, Tensor]:
        """New fine vectors [B, T, D] after `pending` -> (the units they complete, what is pending now)."""
        sequence = torch.cat((pending, fine), dim=1)
        num_new = (sequence.shape[1] - self.width + self.factor) // self.factor
        pending = sequence[:, num_new * self.factor :]
        if num_new == 0:
            return sequence[:, :0], pending
        if self.project is None:
            return sequence[:, : num_new * self.factor].unflatten(1, (num_new, -1)).mean(dim=2), pending
        windows = sequence.unfold(1, self.width, self.factor).transpose(2, 3)
        return self.project(windows.flatten(2)), pending


class CausalExpansion(nn.Module):
    """Units [B, G, D] -> a vector for each fine position: i reads unit floor((i + 1) / k) - 1, the newest whole one.

    Before the first unit is whole, positions read a learned null vector. Either the unit itself is read (repeat) or
    a linear map of it, another for each of the k places (linear).
    """

    PARAMETER_KINDS: ClassVar[dict[str, Kind]] = {"null": "vector"}

    def __init__(self, *, hidden_dim: int, factor: int, is_linear: bool) -> None:
        super().__init__()
        self.factor = factor
        self.null = nn.Parameter(torch.empty(hidden_dim))
        self.project = Linear(hidden_dim, factor * hidden_dim) if is_linear else None
        nn.init.normal_(self.null, std=0.02)

    def forward(self, units: Tensor, *, num_fine: int, unread: Tensor | None) -> tuple[Tensor, Tensor]:
        """-> (one vector for each of the `num_fine` new fine positions, places not read yet)."""
        if unread is None:  # place 0 of the null vector would belong to the position before the first
            unread = self._places(self.null.repeat(units.shape[0], 1, 1))[:, 1:]
        places = torch.cat((unread, self._places(units)), dim=1)
        return places[:, :num_fine], places[:, num_fine:]

    def _places(self, units: Tensor) -> Tensor:
        if self.project is None:
            return units.repeat_interleave(self.factor, dim=1)
        return self.project(units).unflatten(2, (self.factor, -1)).flatten(1, 2)


class Pool(Layer):
    """Pushes one coarser level for each factor, all of them pooled from the top."""

    def __init__(self, kind: Downsampling, *, hidden_dim: int, factors: tuple[int, ...], kernel_groups: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            Downsample(kind, hidden_dim=hidden_dim, factor=factor, kernel_groups=kernel_groups) for factor in factors
        )
        initialise(self)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        return self.decode(stream, None)[0], memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        fine = stream.hidden
        pending = tuple(pool.start(fine) for pool in self.pools) if cache is None else cache
        results = [pool(fine, before) for pool, before in zip(self.pools, pending, strict=True)]
        for units, _ in results:
            stream = stream.push(units)
        return stream, tuple(after for _, after in results)


class Condition(Layer):
    """Pops a coarse level and lets the finer one below it see it: z = [e ; u] W + b.

    W begins as the identity for e, and for u as what else writes into a residual stream: the finer level learns from
    the first step on as if it were alone. With all of W drawn, its tokens drown in a coarse level that knows nothing
    yet: 30 layers of width 96 then stayed at the frequencies of tokens for 500 steps.
    """

    def __init__(self, *, hidden_dim: int, factor: int, is_linear: bool, residual_scale: float) -> None:
        super().__init__()
        self.expand = CausalExpansion(hidden_dim=hidden_dim, factor=factor, is_linear=is_linear)
        self.merge = Linear(2 * hidden_dim, hidden_dim)
        initialise(self)
        with torch.no_grad():
            self.merge.weight *= residual_scale
            self.merge.weight[:, :hidden_dim] = torch.eye(hidden_dim)

    def forward(self, stream: Stream, memory: Memory | None = None) -> tuple[Stream, Memory | None]:
        return self.decode(stream, None)[0], memory

    def decode(self, stream: Stream, cache: Cache | None) -> tuple[Stream, Cache | None]:
        coarse, below = stream.pop()
        fine = below.hidden
        unread = None if cache is None else cache[0]
        expanded, unread = self.expand(coarse, num_fine=fine.shape[1], unread=unread)
        return below.with_hidden(self.merge(torch.cat((fine, expanded), dim=2))), (unread,)
