"""Relative attention against the formula written out pair by pair."""

import pytest
import torch

from hierlm.nn.attention.positions import relative_shift, sinusoids
from hierlm.nn.attention.relative_attention import (
    RelativeAttention,
    Sight,
    consecutive_sight,
    gapped_sight,
    two_way_sight,
)
from hierlm.nn.memory.slots import SegmentMemory, empty_memory

D, H = 12, 3


def _attention() -> RelativeAttention:
    torch.manual_seed(0)
    return RelativeAttention(hidden_dim=D, num_heads=H, dropout=0.0, attention_dropout=0.0).double()


def _memory(length: int, num_tokens: int, *, gap: int = 0) -> SegmentMemory:
    memory = empty_memory(2, length=length, hidden_dim=D, device=torch.device("cpu"), dtype=torch.float64)
    inputs = torch.randn(2, num_tokens, D, dtype=torch.float64)
    return memory.with_segment(inputs, length=length).after(gap)


def _by_the_formula(attention, x, past, distance, visible):
    """[(q_i + u) k_j + (q_i + v) W_r P(distance_ij)] / sqrt(K), one pair after the other."""
    head_dim = D // H
    seen = torch.cat((past, x), dim=1)
    output = torch.zeros_like(x)
    for row in range(len(x)):
        for head in range(H):
            part = slice(head * head_dim, (head + 1) * head_dim)
            u, v = attention.content_bias.weight[part, 0], attention.position_bias.weight[part, 0]
            for i in range(x.shape[1]):
                q = (attention.query.weight @ x[row, i])[part]
                scores = []
                for j in range(seen.shape[1]):
                    k = (attention.key.weight @ seen[row, j])[part]
                    wave = sinusoids(torch.tensor([float(distance(row, i, j))]), D)[0].double()
                    r = (attention.position.weight @ wave)[part]
                    score = ((q + u) @ k + (q + v) @ r) / head_dim**0.5
                    scores.append(score if visible(row, i, j) else score - torch.inf)
                output[row, i, part] = torch.stack(scores).softmax(0) @ (seen[row] @ attention.value.weight.T)[:, part]
    return output @ attention.output.weight.T


@pytest.mark.parametrize(("num_queries", "length", "held"), [(4, 6, 6), (5, 4, 2), (3, 0, 0), (1, 5, 5), (6, 2, 2)])
def test_consecutive_slots_by_relative_shift_equal_the_formula(num_queries, length, held):
    attention, x = _attention(), torch.randn(2, num_queries, D, dtype=torch.float64)
    memory = _memory(length, held)
    out = attention(x, memory.hidden, consecutive_sight(memory.filled, num_queries))
    expected = _by_the_formula(
        attention, x, memory.hidden, lambda b, i, j: i + length - j, lambda b, i, j: length - held <= j <= i + length
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gap", [0, 3, 40])
def test_gapped_slots_have_their_true_distance(gap):
    attention, x = _attention(), torch.randn(2, 4, D, dtype=torch.float64)
    memory = _memory(5, 5, gap=gap)
    out = attention(x, memory.hidden, gapped_sight(memory, 4))
    expected = _by_the_formula(
        attention, x, memory.hidden, lambda b, i, j: i + 5 - j + (gap if j < 5 else 0), lambda b, i, j: j <= i + 5
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_rows_may_have_gaps_of_their_own():
    attention, x = _attention(), torch.randn(2, 3, D, dtype=torch.float64)
    memory = _memory(4, 4)
    memory = memory._replace(clock=memory.clock + torch.tensor([0, 9]))
    together = attention(x, memory.hidden, gapped_sight(memory, 3))
    for row in range(2):
        alone = SegmentMemory(*(part[row : row + 1] for part in memory))
        one = attention(x[row : row + 1], alone.hidden, gapped_sight(alone, 3))
        torch.testing.assert_close(one[0], together[row], rtol=0, atol=1e-13)


def test_without_gaps_both_paths_agree_and_a_missing_shift_does_not():
    attention, x = _attention(), torch.randn(2, 4, D, dtype=torch.float64)
    memory = _memory(6, 5)
    shifted = attention(x, memory.hidden, consecutive_sight(memory.filled, 4))
    gathered = attention(x, memory.hidden, gapped_sight(memory, 4))
    unshifted = attention(x, memory.hidden, gapped_sight(memory, 4).measured_from_last_query())
    torch.testing.assert_close(shifted, gathered, rtol=0, atol=1e-13)
    assert (shifted - unshifted)[:, :-1].abs().max() > 1e-4
    torch.testing.assert_close(shifted[:, -1], unshifted[:, -1], rtol=0, atol=1e-13)


def test_two_way_distances_are_negative_ahead():
    attention, x = _attention(), torch.randn(2, 4, D, dtype=torch.float64)
    out = attention(x, x[:, :0], two_way_sight(torch.ones(1, 1, 4, 4, dtype=torch.bool)))
    expected = _by_the_formula(attention, x, x[:, :0], lambda b, i, j: i - j, lambda b, i, j: True)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_relative_shift_moves_each_row_to_its_place():
    products = torch.arange(12.0).view(3, 4)
    shifted = relative_shift(products)
    for i in range(3):
        for j in range(4 - (2 - i)):
            assert shifted[i, j] == products[i, j + 2 - i]


def test_same_length_shows_every_query_as_many_keys():
    memory = _memory(6, 6)
    visible = consecutive_sight(memory.filled, 4).same_length(6).visible
    assert visible.sum(-1).unique().tolist() == [6]
    short = _memory(6, 1)
    counts = consecutive_sight(short.filled, 4).same_length(6).visible.sum(-1)[0, 0]
    assert counts.tolist() == [2, 3, 4, 5]


def test_clamped_distances_are_all_the_same():
    attention, x = _attention(), torch.randn(2, 3, D, dtype=torch.float64)
    memory = _memory(6, 6)
    out = attention(x, memory.hidden, consecutive_sight(memory.filled, 3).clamped(2))
    expected = _by_the_formula(
        attention, x, memory.hidden, lambda b, i, j: min(i + 6 - j, 2), lambda b, i, j: j <= i + 6
    )
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_permuting_keys_values_and_waves_is_permuting_queries_and_biases_backwards():
    attention, x = _attention(), torch.randn(2, 4, D, dtype=torch.float64)
    memory, order = _memory(3, 3), torch.tensor([2, 0, 1])
    sight = consecutive_sight(memory.filled, 4)
    crossed = attention(x, memory.hidden, sight, head_order=order)
    rows = torch.arange(D).view(H, -1)
    other = _attention()
    backwards = rows[order.argsort()].flatten()
    with torch.no_grad():
        for name in ("query", "content_bias", "position_bias"):
            getattr(other, name).weight.copy_(getattr(attention, name).weight[backwards])
        other.output.weight.copy_(attention.output.weight[:, backwards])
    torch.testing.assert_close(other(x, memory.hidden, sight), crossed, rtol=0, atol=1e-12)
    plain = attention(x, memory.hidden, sight)
    assert torch.equal(attention(x, memory.hidden, sight, head_order=torch.arange(H)), plain)
    assert (plain - crossed).abs().max() > 1e-3


@pytest.mark.parametrize("cut", [[1] * 6, [2, 4], [6]])
def test_extending_kept_projections_equals_one_look(cut):
    attention, x = _attention(), torch.randn(2, 6, D, dtype=torch.float64)
    whole = attention(x, x[:, :0], consecutive_sight(torch.ones(1, 0, dtype=torch.bool), 6))
    seen, parts = None, []
    for piece in x.split(cut, dim=1):
        filled = torch.ones(1, 0 if seen is None else seen.keys.shape[2], dtype=torch.bool)
        part, seen = attention.extend(piece, seen, consecutive_sight(filled, piece.shape[1]))
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-12)


def test_gradients_by_finite_differences():
    attention, memory = _attention(), _memory(3, 3, gap=2)
    x = torch.randn(2, 2, D, dtype=torch.float64, requires_grad=True)
    sights: list[Sight] = [gapped_sight(memory, 2), consecutive_sight(memory.filled, 2)]
    for sight in sights:
        assert torch.autograd.gradcheck(lambda t, s=sight: attention(t, memory.hidden, s), (x,))
