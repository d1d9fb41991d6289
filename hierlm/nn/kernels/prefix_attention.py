"""Attention whose queries see the first so many keys each, its float32 products on some processors made by oneDNN.

Where `hierlm.nn.kernels.linear` prefers oneDNN and the processor has AVX-512, torch's fused kernel, which multiplies by
MKL, runs at a third of oneDNN's rate. Here a block of queries at a time is multiplied with the keys that any of them
sees; the backward pass makes the scores again, and nothing of the size Q x S is kept.

Shapes: B batch, H heads, Q queries, S keys, K head_dim; of a block: q queries, s keys.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hierlm.nn.attention.heads import like_projections
from hierlm.nn.kernels.linear import leaves_avx512_idle, times
from hierlm.nn.kernels.prefixes import Prefixes
from hierlm.nn.kernels.target import device_type

MOST_QUERIES, LEAST_QUERIES = 256, 128
"""Of a block but a row's last. Many multiply many hidden pairs, few make products that a call's overhead outweighs."""

MOST_SCORES = 3 << 18
"""Of a block, where it has more than `LEAST_QUERIES`: two such matrices are all that a long row needs."""

ENOUGH_QUERIES, ENOUGH_KEY_NUMBERS = 256, 20_000
"""Of one head: queries, and for each thread S K. Threads are better given small heads whole, as torch does."""


def is_fastest(queries: Tensor, keys: Tensor) -> bool:
    """Whether `attend_to_prefix` is the fastest way for these."""
    return (
        not torch.compiler.is_compiling()  # it chooses its own kernels
        and device_type(queries) == "cpu"
        and queries.dtype == keys.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and queries.shape[-2] >= ENOUGH_QUERIES
        and keys.shape[-2] * keys.shape[-1] >= ENOUGH_KEY_NUMBERS * torch.get_num_threads()
        and leaves_avx512_idle()
    )


class Block(NamedTuple):
    """Neighbouring queries."""

    queries: slice
    num_shared: int  # keys that all of them see
    num_seen: int  # keys that any of them sees: s
    hiding: Tensor  # [q, s - num_shared], 0 or -inf: added to the scores of the keys behind the shared ones

    def shares(self, queries: Tensor, scaled_keys: Tensor) -> Tensor:
        """[Q, K], [S, K] of a head -> [q, s]: how the block's queries look at the keys."""
        scores = times(queries[self.queries], scaled_keys[: self.num_seen])
        scores[:, self.num_shared :].add_(self.hiding)
        return torch.softmax(scores, dim=-1, out=scores)


@torch.library.custom_op("hierlm::attend_to_prefix", mutates_args=())
def attend_to_prefix(  # noqa: PLR0917 - operations have numbers and tensors, and in an order
    queries: Tensor, keys: Tensor, values: Tensor, first: int, run: int, rise: int
) -> Tensor:
    """softmax(queries keys' / sqrt K) values, [B, H, Q, K], of the keys that `Prefixes(first, run, rise)` shows."""
    output, blocks = like_projections(queries), _blocks(Prefixes(first, run, rise), num_queries=queries.shape[2])
    for head in _heads(queries):
        scaled, seen = _scaled(keys[head]), values[head].contiguous()
        for block in blocks:
            shares = block.shares(queries[head], scaled)
            output[head][block.queries] = times(shares, seen[: block.num_seen].t())
    return output


@torch.library.custom_op("hierlm::attend_to_prefix_backward", mutates_args=())
def _gradients(  # noqa: PLR0917
    of_output: Tensor, output: Tensor, queries: Tensor, keys: Tensor, values: Tensor, first: int, run: int, rise: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the queries [B, H, Q, K], the keys and the values [B, H, S, K]."""
    found, blocks = _room(queries, keys, values), _blocks(Prefixes(first, run, rise), num_queries=queries.shape[2])
    for head in _heads(queries):
        to, saved = (x[head] for x in found), (x[head] for x in (of_output, output, queries, keys, values))
        _differentiate(Gradients(*to), Saved(*saved), blocks)
    return found


class Gradients(NamedTuple):
    """Of one head."""

    queries: Tensor  # [Q, K]
    keys: Tensor  # [S, K]
    values: Tensor  # [S, K]


class Saved(NamedTuple):
    """Of one head."""

    of_output: Tensor  # [Q, K]
    output: Tensor  # [Q, K]
    queries: Tensor  # [Q, K]
    keys: Tensor  # [S, K]
    values: Tensor  # [S, K]


def _differentiate(to: Gradients, saved: Saved, blocks: Sequence[Block]) -> None:
    """Gradients of keys and values are summed as [K, S]: then the shares of a block need not be turned round."""
    of_output, output, queries, keys, values = saved
    scaled_keys, values = _scaled(keys), values.contiguous()
    of_output_turned, queries_turned = of_output.t().contiguous(), queries.t().contiguous()
    means = (of_output * output).sum(dim=-1, keepdim=True)
    of_keys, of_values = keys.new_zeros(2, *keys.t().shape)
    for block in blocks:
        here, seen = block.queries, slice(block.num_seen)
        shares = block.shares(queries, scaled_keys)
        of_values[:, seen].add_(times(of_output_turned[:, here], shares.t()))
        of_scores = times(of_output[here], values[seen]).sub_(means[here]).mul_(shares)
        to.queries[here] = times(of_scores, scaled_keys[seen].t())
        of_keys[:, seen].add_(times(queries_turned[:, here], of_scores.t()))
        del shares, of_scores  # before the next ones are made
    torch.mul(of_keys.t(), _scale(keys), out=to.keys)
    to.values.copy_(of_values.t())


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    queries, keys, values, *ctx.prefixes = inputs
    ctx.save_for_backward(output, queries, keys, values)


def _backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:
    return (*_gradients(of_output, *ctx.saved_tensors, *ctx.prefixes), None, None, None)


attend_to_prefix.register_autograd(_backward, setup_context=_save)
attend_to_prefix.register_fake(lambda queries, *_: like_projections(queries))
_gradients.register_fake(lambda of_output, output, queries, keys, values, *_: _room(queries, keys, values))

operator = torch.ops.hierlm.attend_to_prefix
"""As those know it who watch operations: what counts FLOPs, what chooses which outputs to keep."""


def _room(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return like_projections(queries), like_projections(keys), like_projections(values)


def _heads(x: Tensor) -> Iterator[tuple[int, int]]:
    return product(range(x.shape[0]), range(x.shape[1]))


def _scaled(keys: Tensor) -> Tensor:
    return (keys * _scale(keys)).contiguous()


def _scale(keys: Tensor) -> float:
    """Of scores."""
    return float(keys.shape[-1] ** -0.5)


def _blocks(prefixes: Prefixes, *, num_queries: int) -> list[Block]:
    most_by_scores = MOST_SCORES // prefixes.num_visible(num_queries - 1)
    size = max(LEAST_QUERIES, min(MOST_QUERIES, most_by_scores))
    return [_block(prefixes, slice(i, min(i + size, num_queries))) for i in range(0, num_queries, size)]


def _block(prefixes: Prefixes, queries: slice) -> Block:
    from_here = prefixes._replace(first=(prefixes.first + queries.start) % prefixes.run)
    hiding = _hiding(from_here, num_queries=queries.stop - queries.start)
    return Block(queries, prefixes.num_visible(queries.start), prefixes.num_visible(queries.stop - 1), hiding)


@lru_cache(maxsize=16)
def _hiding(prefixes: Prefixes, *, num_queries: int) -> Tensor:
    """Of a block whose first query is on the lowest step."""
    num_visible = torch.tensor([prefixes.num_visible(query) for query in range(num_queries)])
    keys = torch.arange(prefixes.rise, int(num_visible[-1]))
    is_hidden = keys >= num_visible[:, None]
    return torch.zeros(is_hidden.shape).masked_fill_(is_hidden, -math.inf)
