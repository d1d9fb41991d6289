"""Each rule's fused path sees exactly what its mask says, and the masks say what the rules promise."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hierlm.nn.attention.visibility import Causal, GroupsSoFar, OnePerGroup
from tests.nn.pairs import offsets_of

CPU = torch.device("cpu")


def heads(num: int, *, seed: int) -> torch.Tensor:
    return torch.randn(2, 3, num, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CASES = [
    (Causal(), 9, 9),
    (Causal(), 4, 9),
    (Causal(), 1, 9),
    *[(Causal(window), 13, 13) for window in (1, 2, 3, 5, 12, 13, 20)],
    (Causal(3), 4, 13),
    (Causal(3), 1, 13),
    (Causal(20), 4, 13),
    (OnePerGroup(3), 4, 12),
    (OnePerGroup(3), 2, 12),
    (OnePerGroup(2), 1, 2),
    (OnePerGroup(3), 150, 450),
    (OnePerGroup(2), 130, 300),
    *[(GroupsSoFar(3, 0), num, -(-num // 3)) for num in (1, 2, 3, 4, 12)],
    (GroupsSoFar(3, 5), 4, 3),
    (GroupsSoFar(2, 7), 1, 4),
]


@pytest.mark.parametrize(("rule", "num_queries", "num_keys"), CASES)
def test_fused_attention_equals_attention_under_the_mask(rule, num_queries, num_keys):
    queries, keys, values = heads(num_queries, seed=1), heads(num_keys, seed=2), heads(num_keys, seed=3)
    mask = rule.mask(num_queries, num_keys, device=CPU)
    expected = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    torch.testing.assert_close(rule.attend(queries, keys, values), expected)


@pytest.mark.parametrize(("rule", "num_queries", "num_keys"), CASES)
def test_every_visible_pair_gets_what_belongs_to_its_offset(rule, num_queries, num_keys):
    span, visible = rule.offset_span(num_queries, num_keys), rule.mask(num_queries, num_keys, device=CPU)
    by_offset = torch.arange(span.start, span.stop).expand(2, num_queries, -1)
    expected = offsets_of(rule, num_queries, num_keys)
    for by_pair in rule.by_pair(by_offset, num_keys):
        assert torch.equal(by_pair[visible], expected[visible])


def test_a_window_counts_the_query_itself():
    assert Causal(2).mask(4, 4, device=CPU).sum(dim=1).tolist() == [1, 2, 2, 2]


def test_group_m_sees_the_members_of_groups_up_to_m():
    assert OnePerGroup(3).mask(3, 9, device=CPU).sum(dim=1).tolist() == [3, 6, 9]


def test_fine_position_i_sees_groups_up_to_i_over_k():
    assert GroupsSoFar(3, 0).mask(7, 3, device=CPU).sum(dim=1).tolist() == [1, 1, 1, 2, 2, 2, 3]


def test_most_pairs_that_a_group_does_not_see_are_not_multiplied():
    num_groups, factor = 512, 3
    queries, keys = heads(num_groups, seed=1), heads(num_groups * factor, seed=2)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        OnePerGroup(factor).attend(queries, keys, keys)
    of_all_pairs = 2 * 2 * queries.numel() * num_groups * factor
    assert counter.get_total_flops() == of_all_pairs * 5 // 8


def test_a_window_needs_no_square_of_the_length():
    """Twice the length costs twice as much."""
    sizes = []
    for length in (256, 512):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            Causal(16).attend(heads(length, seed=1), heads(length, seed=2), heads(length, seed=3))
        sizes.append(counter.get_total_flops())
    assert sizes[1] < 2.1 * sizes[0]
