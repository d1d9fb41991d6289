"""Positions: rotations know only differences, and relative attention is the formula it cites."""

import pytest
import torch

from hierlm.nn.attention.offset_attention import OffsetAttention
from hierlm.nn.attention.positions import rotate, sinusoids, token_positions
from hierlm.nn.attention.visibility import Causal, GroupsSoFar, OnePerGroup
from hierlm.nn.shape import BlockShape
from tests.nn.pairs import offsets_of

D, H = 8, 2
K = D // H
CPU = torch.device("cpu")
SHAPE = BlockShape(
    hidden_dim=D, num_heads=H, ffn_dim=16, activation="gelu", positions="relative", dropout=0.0, residual_scale=1.0
)


def vectors(length, seed):
    return torch.randn(1, length, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_rotated_product_depends_on_the_distance_only():
    q, k = vectors(1, 1)[:, None], vectors(1, 2)[:, None]

    def product(i, j):
        at = [token_positions(1, first=p, device=CPU) for p in (i, j)]
        return (rotate(q, at[0]) * rotate(k, at[1])).sum()

    torch.testing.assert_close(product(9, 4), product(105, 100), rtol=1e-5, atol=1e-5)
    assert not torch.isclose(product(9, 4), product(9, 5))
    torch.testing.assert_close(rotate(q, torch.zeros(1)), q)


def test_a_coarse_position_counts_in_tokens():
    assert token_positions(3, first=2, stride=4, device=CPU).tolist() == [8, 12, 16]


@pytest.mark.parametrize(
    ("rule", "num_queries", "num_keys"),
    [(Causal(), 6, 6), (Causal(), 2, 6), (OnePerGroup(3), 2, 6), (GroupsSoFar(3, 0), 6, 2), (GroupsSoFar(2, 3), 3, 3)],
)
@pytest.mark.parametrize("stride", [1, 4])
def test_relative_attention_is_its_formula(rule, num_queries, num_keys, stride):
    torch.manual_seed(5)
    attention = OffsetAttention(SHAPE).double()
    x, y = vectors(num_queries, 3), vectors(num_keys, 4)
    seen = attention.key_values(y, torch.zeros(num_keys))
    got = attention(x, torch.zeros(num_queries), seen=seen, rule=rule, stride=stride)

    mask = rule.mask(num_queries, num_keys, device=CPU)
    offsets = offsets_of(rule, num_queries, num_keys)
    q, k, v = attention.query(x)[0], attention.key(y)[0], attention.value(y)[0]
    u, w = attention.content_bias.weight[:, 0], attention.position_bias.weight[:, 0]
    heads = []
    for head in (slice(0, K), slice(K, D)):
        scores = torch.full((num_queries, num_keys), float("-inf"), dtype=torch.float64)
        for i in range(num_queries):
            for j in range(num_keys):
                if mask[i, j]:
                    wave = sinusoids(offsets[i, j].float()[None] * stride, D).double()
                    r = attention.position(wave)[0, head]
                    scores[i, j] = ((q[i, head] + u[head]) @ k[j, head] + (q[i, head] + w[head]) @ r) / K**0.5
        heads.append(scores.softmax(dim=-1) @ v[:, head])
    torch.testing.assert_close(got[0], attention.output(torch.cat(heads, dim=1)), rtol=1e-6, atol=1e-6)
