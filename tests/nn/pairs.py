"""The offset of every pair by its definition, for any rule of who sees whom."""

import torch

from hierlm.nn.attention.visibility import Causal, GroupsSoFar, OnePerGroup, Rule


def offsets_of(rule: Rule, num_queries: int, num_keys: int) -> torch.Tensor:
    """int64 [Q, S]: same level j - i, down (query i, key j) j - i k, up j k - i; the last query is the newest."""
    i, j = torch.arange(num_queries)[:, None], torch.arange(num_keys)[None, :]
    if isinstance(rule, Causal):
        return j - (num_keys - num_queries + i)
    if isinstance(rule, OnePerGroup):
        return j - (num_keys // rule.factor - num_queries + i) * rule.factor
    assert isinstance(rule, GroupsSoFar)
    return j * rule.factor - (rule.first + i)
