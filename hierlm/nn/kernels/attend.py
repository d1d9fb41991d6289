"""The door: a layer says who sees whom, and here the way is chosen, by device, type and the shape of what is seen.

    attend              every query sees the first so many keys, or the newest of them
    attend_all          every query sees every key
    attend_under        a mask says it, or numbers that are added to the scores
    attend_by_distance  the scores have a term for each distance, which learns

Shapes: B batch, H heads, Q queries, S keys, K head_dim; queries [B, H, Q, K], keys and values [B, H, S, K], or those of
fewer heads, each for as many neighbouring heads of the queries.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hierlm.nn.kernels import prefix_attention, relative_blocks
from hierlm.nn.kernels.fused_attention import attend_fused, with_keys_of_their_own
from hierlm.nn.kernels.prefixes import Prefixes, visible_keys
from hierlm.nn.kernels.relative_blocks import Operands

__all__ = ["Operands", "Prefixes", "attend", "attend_all", "attend_by_distance", "attend_under", "visible_keys"]

_QUERY_BLOCKS = 4  # multiplies 5/8 of all pairs; more blocks save little and each adds up the gradients of its keys
_LEAST_QUERIES = 64


def attend(queries: Tensor, keys: Tensor, values: Tensor, *, sees: Prefixes, window: int | None = None) -> Tensor:
    """softmax(queries keys' / sqrt K) values, [B, H, Q, K], of what `sees` shows, if no window hides it.

    Memory O(Q * window) where there is a window, which goes with prefixes that grow by one, never O(Q * Q).
    """
    is_windowed = window is not None and keys.shape[-2] > window
    if is_windowed or prefix_attention.is_fastest(queries, keys):
        keys, values = with_keys_of_their_own(queries, keys, values)  # neither takes shared ones
    if window is not None and is_windowed:
        return _in_window(queries, keys, values, window=window)
    if prefix_attention.is_fastest(queries, keys):
        output: Tensor = prefix_attention.attend_to_prefix(queries, keys, values, *sees)
        return output
    if sees.rise > 1:
        return _by_query_blocks(queries, keys, values, sees)
    if sees.first > 0:
        return _masked(queries, keys, values, sees)
    if sees.run > 1:
        return _remainders_as_heads(queries, keys, values, factor=sees.run)
    return attend_fused(queries, keys, values, is_causal=True)


def attend_all(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same of all keys."""
    return attend_fused(queries, keys, values)


def attend_under(queries: Tensor, keys: Tensor, values: Tensor, *, mask: Tensor) -> Tensor:
    """The same of what `mask` shows (bool, True = visible), or with it added; it broadcasts to [B, H, Q, S]."""
    return attend_fused(queries, keys, values, mask=mask)


def attend_by_distance(operands: Operands, visible: Tensor, *, slides: bool, bias: Callable[[], Tensor]) -> Tensor:
    """softmax(content keys' / sqrt K + position term) values among `visible` pairs, bool [B or 1, 1, Q, S].

    `bias` makes the position term of all pairs at once, [B, H, Q, S], hidden ones at -inf: where no way is better.
    `slides`: the distances of neighbouring keys differ by one, so that it can be made tile by tile.
    """
    if slides and relative_blocks.is_fastest(operands):
        scale = operands.content.shape[-1] ** -0.5
        return relative_blocks.attend_in_tiles(operands._replace(content=operands.content * scale), visible)
    return attend_fused(operands.content, operands.keys, operands.values, mask=bias())


def _masked(queries: Tensor, keys: Tensor, values: Tensor, sees: Prefixes, *, window: int | None = None) -> Tensor:
    mask = visible_keys(sees, queries.shape[-2], keys.shape[-2], window=window, device=queries.device)
    return attend_fused(queries, keys, values, mask=mask)


def _by_query_blocks(queries: Tensor, keys: Tensor, values: Tensor, sees: Prefixes) -> Tensor:
    """A kernel given a mask multiplies the hidden pairs too, so most of them are not given to it; `sees.run` is 1."""
    size = max(-(-queries.shape[-2] // _QUERY_BLOCKS), _LEAST_QUERIES)
    blocks = []
    for index, block in enumerate(queries.split(size, dim=-2)):
        from_here = Prefixes(sees.first + index * size, sees.run, sees.rise)
        num_seen = (from_here.first + block.shape[-2]) * sees.rise
        blocks.append(_masked(block, keys[..., :num_seen, :], values[..., :num_seen, :], from_here))
    return torch.cat(blocks, dim=-2) if len(blocks) > 1 else blocks[0]


def _remainders_as_heads(queries: Tensor, keys: Tensor, values: Tensor, *, factor: int) -> Tensor:
    """Without a mask, where `factor` queries in a row see the same, one key more than those before them.

    The positions of one remainder mod `factor` form a plain causal square with the keys, so the remainders become query
    heads that share their keys.
    """
    (batch, heads, num_queries, head_dim), num_groups = queries.shape, keys.shape[-2]
    padded = F.pad(queries, (0, 0, 0, num_groups * factor - num_queries))
    by_remainder = padded.reshape(batch, heads, num_groups, factor, head_dim).transpose(2, 3)
    by_remainder = by_remainder.reshape(batch, heads * factor, num_groups, head_dim)
    out = attend_fused(by_remainder, keys, values, is_causal=True)
    out = out.reshape(batch, heads, factor, num_groups, head_dim).transpose(2, 3)
    return out.reshape(batch, heads, num_groups * factor, head_dim)[..., :num_queries, :]


def _causal(num_queries: int, num_keys: int) -> Prefixes:
    return Prefixes(num_keys - num_queries, 1, 1)


def _in_window(queries: Tensor, keys: Tensor, values: Tensor, *, window: int) -> Tensor:
    num_queries, num_keys = queries.shape[-2], keys.shape[-2]
    if num_queries != num_keys:
        reach = min(num_keys, num_queries + window - 1)
        keys, values = keys[..., -reach:, :], values[..., -reach:, :]
        return _masked(queries, keys, values, _causal(num_queries, reach), window=window)
    first = attend(*(x[..., :window, :] for x in (queries, keys, values)), sees=_causal(window, window))
    return torch.cat((first, _later_blocks(queries, keys, values, window)), dim=-2)


def _later_blocks(queries: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """Blocks of `window` queries, each against its own and the previous block of keys; block 0 is left out."""
    batch, heads, length, head_dim = queries.shape
    queries, keys, values = (F.pad(x, (0, 0, 0, -length % window)) for x in (queries, keys, values))
    num_blocks = queries.shape[-2] // window - 1

    def pairs(x: Tensor) -> Tensor:
        blocks = x.reshape(batch, heads, num_blocks + 1, window, head_dim)
        both = torch.cat((blocks[:, :, :-1], blocks[:, :, 1:]), dim=-2)
        return both.reshape(batch, heads * num_blocks, 2 * window, head_dim)

    own = queries[..., window:, :].reshape(batch, heads * num_blocks, window, head_dim)
    out = _masked(own, pairs(keys), pairs(values), _causal(window, 2 * window), window=window)
    return out.reshape(batch, heads, num_blocks * window, head_dim)[..., : length - window, :]
