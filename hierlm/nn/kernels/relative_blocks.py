"""Attention by content and by distance, one tile of scores after the other (Transformer-XL, 1901.02860, appendix B).

The fused kernels of a CPU take no bias that learns, and the scores of all pairs pass its caches many times. Here a tile
of them is made, normalised and used while it is in cache, and no key without a distance is multiplied. The
backward pass makes the scores again: nothing of the size T x S is kept but what is visible.

Shapes: B batch, H heads, T queries, S keys, U distances, K head_dim; of a tile: G heads, Q queries, J keys, C columns.
The pair (i, j) has the distance in column j + T - 1 - i of `waves`. A tile's products of queries and waves are the rows
of a [Q, R] matrix; the same memory, read from its column Q - 1 on with rows of R - 1, holds the product of every pair
in its place: the relative shift costs nothing, nor does its adjoint.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hierlm.nn.attention.heads import like_projections
from hierlm.nn.kernels.target import device_type

QUERIES_PER_TILE = 64
TILE_BYTES_PER_THREAD = 2**18  # half a second-level cache: the scores and the shares made of them


class Operands(NamedTuple):
    """What the scores are made of; queries have their biases, the placed ones are scaled.

    `attend_in_tiles` wants the content queries scaled too.
    """

    content: Tensor  # [B, H, T, K]
    placed: Tensor  # [B, H, T, K]
    keys: Tensor  # [B, H, S, K]
    values: Tensor  # [B, H, S, K]
    waves: Tensor  # [H, U, K]


class Tile(NamedTuple):
    """Some queries of some heads in one row of the batch, with all keys that have a distance to them."""

    row: int
    heads: slice
    queries: slice
    num_keys: int  # J
    waves: slice

    def of_queries(self, x: Tensor) -> Tensor:
        """[B, H, T, ...] -> [G, Q, ...]."""
        return x[self.row, self.heads, self.queries]

    def of_keys(self, x: Tensor) -> Tensor:
        """[B, H, S, ...] -> [G, J, ...]."""
        return x[self.row, self.heads, : self.num_keys]

    def of_waves(self, x: Tensor) -> Tensor:
        """[H, U, K] -> [G, C, K]."""
        return x[self.heads, self.waves]

    @property
    def num_queries(self) -> int:
        """Q."""
        return self.queries.stop - self.queries.start

    @property
    def num_waves(self) -> int:
        """C."""
        return self.waves.stop - self.waves.start

    def room(self, workspace: Tensor) -> Tensor:
        """[G, Q, R] at the start of `workspace`; R so large that no two pairs share a place."""
        num_heads = self.heads.stop - self.heads.start
        stride = _row_length(num_keys=self.num_keys, num_waves=self.num_waves)
        return workspace[: num_heads * self.num_queries * stride].view(num_heads, self.num_queries, stride)

    def pairs(self, room: Tensor) -> Tensor:
        """[G, Q, J], the same memory as `room`, by pair."""
        num_heads, num_queries, stride = room.shape
        size = (num_heads, num_queries, self.num_keys)
        return room.as_strided(size, (num_queries * stride, stride - 1, 1), num_queries - 1)


def is_fastest(operands: Operands) -> bool:
    """Where the fused kernel would fall back to one operation after the other: a bias that learns, on a CPU."""
    learns = torch.is_grad_enabled() and operands.content.requires_grad
    return learns and not torch.compiler.is_compiling() and device_type(operands.content) == "cpu"


def attend_in_tiles(operands: Operands, visible: Tensor) -> Tensor:
    """[B, H, T, K] for `visible` bool [B or 1, 1, T, S]; 0 where a query sees nothing."""
    numbers = Operands(*(x.float() if x.dtype in {torch.bfloat16, torch.float16} else x for x in operands))
    heads: Tensor = _TiledAttention.apply(*numbers, visible)
    return (heads * visible.any(dim=-1, keepdim=True)).to(operands.content.dtype)


class _TiledAttention(torch.autograd.Function):
    """softmax(content keys' + shifted(placed waves')) values among visible pairs."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        operands, visible = Operands(*tensors[:-1]), tensors[-1]
        output, mask = like_projections(operands.content), _mask(visible, like=operands.keys)
        scores, shares = _workspaces(operands)
        for tile in _tiles(operands):
            found = _shares(tile, operands, mask, scores=scores, shares=shares)
            torch.bmm(found, tile.of_keys(operands.values), out=tile.of_queries(output))
        ctx.save_for_backward(*operands, visible, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *saved, visible, output = ctx.saved_tensors
        operands, (gradient,) = Operands(*saved), gradients
        grads, mask = _gradient_room(operands), _mask(visible, like=operands.keys)
        mean = (gradient * output).sum(dim=-1, keepdim=True)
        scores, shares = _workspaces(operands)
        for tile in _tiles(operands):
            found, of_output = _shares(tile, operands, mask, scores=scores, shares=shares), tile.of_queries(gradient)
            tile.of_keys(grads.values).baddbmm_(found.mT, of_output)
            room = tile.room(scores).zero_()
            of_scores = torch.bmm(of_output, tile.of_keys(operands.values).mT, out=tile.pairs(room))
            of_scores.sub_(tile.of_queries(mean)).mul_(found)
            _add_gradients(tile, operands, grads, of_scores=of_scores, of_products=room[..., : tile.num_waves])
        return (*grads, None)


def _mask(visible: Tensor, *, like: Tensor) -> Tensor:
    """[B or 1, T, S], to be added: 0, or so far below every score that no share is left; finite, as all are added."""
    return visible[:, 0].to(like.dtype).sub_(1).mul_(torch.finfo(like.dtype).max / 2)


def _shares(tile: Tile, operands: Operands, mask: Tensor, *, scores: Tensor, shares: Tensor) -> Tensor:
    """[G, Q, J] in the workspace `shares`: the softmax of the scores."""
    by_pair = _scores(tile, operands, scores)
    found = shares[: by_pair.numel()].view(by_pair.shape)
    row_mask = mask[min(tile.row, len(mask) - 1), tile.queries, : tile.num_keys]
    return torch.softmax(torch.add(by_pair, row_mask, out=found), dim=-1, out=found)


def _scores(tile: Tile, operands: Operands, workspace: Tensor) -> Tensor:
    """[G, Q, J] in `workspace`; where a pair has no distance, anything finite."""
    room = tile.room(workspace)
    room[..., tile.num_waves :].zero_()
    products = room[..., : tile.num_waves]
    torch.bmm(tile.of_queries(operands.placed), tile.of_waves(operands.waves).mT, out=products)
    return tile.pairs(room).baddbmm_(tile.of_queries(operands.content), tile.of_keys(operands.keys).mT)


def _add_gradients(tile: Tile, operands: Operands, grads: Operands, *, of_scores: Tensor, of_products: Tensor) -> None:
    """Both terms of the scores: by pair [G, Q, J] and, the same memory, by distance [G, Q, C]."""
    torch.bmm(of_scores, tile.of_keys(operands.keys), out=tile.of_queries(grads.content))
    tile.of_keys(grads.keys).baddbmm_(of_scores.mT, tile.of_queries(operands.content))
    torch.bmm(of_products, tile.of_waves(operands.waves), out=tile.of_queries(grads.placed))
    tile.of_waves(grads.waves).baddbmm_(of_products.mT, tile.of_queries(operands.placed))


def _tiles(operands: Operands) -> Iterator[Tile]:
    (batch, num_heads, num_queries, _), num_keys = operands.content.shape, operands.keys.shape[2]
    num_waves = operands.waves.shape[1]
    heads_per_tile = _heads_per_tile(operands)
    for row in range(batch):
        for head in range(0, num_heads, heads_per_tile):
            heads = slice(head, min(head + heads_per_tile, num_heads))
            for first in range(0, num_queries, QUERIES_PER_TILE):
                last = min(first + QUERIES_PER_TILE, num_queries)
                with_distance = min(num_keys, num_waves - num_queries + last)
                farthest = num_queries - last
                nearest = min(num_waves, with_distance + num_queries - 1 - first)
                yield Tile(row, heads, slice(first, last), with_distance, slice(farthest, nearest))


def _heads_per_tile(operands: Operands) -> int:
    budget = TILE_BYTES_PER_THREAD * torch.get_num_threads()
    return max(1, min(operands.content.shape[1], budget // (_most_values(operands) * operands.keys.element_size())))


def _most_values(operands: Operands) -> int:
    """Of one head in the largest room."""
    num_queries, num_keys = min(operands.content.shape[2], QUERIES_PER_TILE), operands.keys.shape[2]
    num_waves = min(operands.waves.shape[1], num_keys + num_queries - 1)
    return num_queries * _row_length(num_keys=num_keys, num_waves=num_waves)


def _row_length(*, num_keys: int, num_waves: int) -> int:
    """R > J, R >= C."""
    return max(num_keys + 1, num_waves)


def _workspaces(operands: Operands) -> tuple[Tensor, Tensor]:
    num_values = _heads_per_tile(operands) * _most_values(operands)
    return operands.keys.new_empty(num_values), operands.keys.new_empty(num_values)


def _gradient_room(operands: Operands) -> Operands:
    """Queries are written once, keys, values and waves are summed over the tiles."""
    return Operands(
        like_projections(operands.content),
        like_projections(operands.placed),
        like_projections(operands.keys).zero_(),
        like_projections(operands.values).zero_(),
        torch.zeros_like(operands.waves),
    )
