"""A layer's memory: which tokens it holds, how old they are, what a change of length does to it."""

import torch

from hierlm.nn.memory.slots import EMPTY, SegmentMemory, empty_memory


def _memory(length: int = 4, batch: int = 2) -> SegmentMemory:
    return empty_memory(batch, length=length, hidden_dim=3, device=torch.device("cpu"), dtype=torch.float64)


def _segment(num_tokens: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, num_tokens, 3, dtype=torch.float64, requires_grad=True)


def test_holds_the_newest_tokens_in_order_and_no_gradient():
    first, second = _segment(3), _segment(3)
    memory = _memory().with_segment(first, length=4).with_segment(second, length=4)
    assert memory.positions.tolist() == [[2, 3, 4, 5]] * 2
    assert torch.equal(memory.hidden, torch.cat((first[:, 2:], second), dim=1))
    assert not memory.hidden.requires_grad


def test_slots_that_were_never_written_are_empty():
    memory = _memory().with_segment(_segment(1), length=4)
    assert memory.filled.tolist() == [[False, False, False, True]] * 2
    assert memory.positions[0].tolist() == [EMPTY, EMPTY, EMPTY, 0]


def test_ages_count_from_the_next_token():
    memory = _memory().with_segment(_segment(4), length=4)
    assert memory.ages[0].tolist() == [4, 3, 2, 1]
    assert memory.after(10).ages[0].tolist() == [14, 13, 12, 11]


def test_growing_older_leaves_the_slots_bit_for_bit():
    memory = _memory().with_segment(_segment(3), length=4)
    older = memory.after(7)
    assert torch.equal(older.hidden, memory.hidden) and torch.equal(older.positions, memory.positions)


def test_resizing_keeps_the_newest():
    memory = _memory().with_segment(_segment(4), length=4)
    assert memory.resized(2).positions[0].tolist() == [2, 3]
    assert memory.resized(6).positions[0].tolist() == [EMPTY, EMPTY, 0, 1, 2, 3]
    assert torch.equal(memory.resized(6).resized(4).hidden, memory.hidden)
    assert memory.resized(0).hidden.shape == (2, 0, 3)


def test_a_row_put_back_to_the_beginning_leaves_its_neighbour():
    old, fresh = _memory().with_segment(_segment(4), length=4), _memory()
    mixed = SegmentMemory(*(torch.stack((new[0], kept[1])) for new, kept in zip(fresh, old, strict=True)))
    after = mixed.with_segment(_segment(2), length=4)
    assert after.positions.tolist() == [[EMPTY, EMPTY, 0, 1], [2, 3, 4, 5]]
