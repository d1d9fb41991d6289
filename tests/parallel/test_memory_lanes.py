"""Memories stay with their rows: through micro-batches, other batch splits and other layouts."""

import pytest
import torch

from hierlm.nn.layer import Layer
from hierlm.parallel.memory_lanes import MemoryLanes


class Remembers(Layer):
    def initial_memory(self, batch_size, *, device, dtype):
        return torch.zeros(batch_size, 2, device=device, dtype=dtype), torch.zeros(batch_size, device=device)


class Forgets(Layer):
    pass


LAYERS = {3: Remembers(), 4: Forgets(), 7: Remembers()}


def lanes(layers=None) -> MemoryLanes:
    return MemoryLanes(layers or LAYERS, device=torch.device("cpu"), dtype=torch.float32)


def of_rows(rows: range):
    """Memories that tell which row and layer they belong to."""
    numbers = torch.tensor([float(row) for row in rows])
    return tuple(
        None if isinstance(layer, Forgets) else (torch.stack([numbers, numbers + index], dim=1), numbers * 10)
        for index, layer in LAYERS.items()
    )


def filled(first_row: int, num_micro_batches: int, size: int) -> MemoryLanes:
    kept = lanes()
    for index in reversed(range(num_micro_batches)):  # the order of putting does not matter
        start = first_row + index * size
        kept.put(index, of_rows(range(start, start + size)))
    return kept


def same(found, expected) -> bool:
    return all(
        (a is None and b is None) or all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(found, expected, strict=True)
    )


def test_unseen_lanes_are_fresh_and_memoryless_layers_have_none():
    memories = lanes().get(0, num_rows=5)
    assert memories[1] is None
    assert memories[0][0].shape == (5, 2) and not memories[0][0].any()


def test_a_lane_gets_back_its_own_memory_without_its_graph():
    kept = lanes()
    weight = torch.ones(2, 2, requires_grad=True)
    kept.put(0, ((weight * 2, weight.sum(dim=1)), None, (weight * 3, weight.sum(dim=1))))
    kept.put(1, of_rows(range(2)))
    memories = kept.get(0, num_rows=2)
    assert not memories[0][0].requires_grad
    assert torch.equal(memories[2][0], torch.full((2, 2), 3.0))


def test_a_lane_with_other_rows_is_our_own_mistake():
    with pytest.raises(AssertionError, match="its lanes"):
        filled(0, 2, 4).get(0, num_rows=3)


@pytest.mark.parametrize(("dp_degree", "micro"), [(1, 12), (1, 3), (3, 2), (4, 1)])
def test_a_saved_memory_fits_any_layout(dp_degree, micro):
    saved = [filled(0, 3, 2).state_by_global_row(first_row=0), filled(6, 1, 6).state_by_global_row(first_row=6)]
    share = 12 // dp_degree
    for dp_rank in range(dp_degree):
        restored = lanes()
        restored.restore(saved, first_row=dp_rank * share, num_rows=share, micro_batch_size=micro)
        for index in range(share // micro):
            start = dp_rank * share + index * micro
            assert same(restored.get(index, num_rows=micro), of_rows(range(start, start + micro)))


def test_stages_take_their_own_layers_from_what_others_saved():
    whole = filled(0, 1, 4).state_by_global_row(first_row=0)
    stage = lanes({7: LAYERS[7]})
    stage.restore([whole], first_row=0, num_rows=4, micro_batch_size=4)
    assert same(stage.get(0, num_rows=4), of_rows(range(4))[2:])


def test_missing_rows_and_layers_are_refused():
    half = filled(0, 1, 4).state_by_global_row(first_row=0)
    with pytest.raises(ValueError, match=r"rows \[4, 5\] are missing"):
        lanes().restore([half], first_row=0, num_rows=6, micro_batch_size=6)
    del half.memories[7]
    with pytest.raises(ValueError, match=r"layers \[7\] is missing"):
        lanes().restore([half], first_row=0, num_rows=4, micro_batch_size=4)


def test_nothing_saved_is_a_fresh_start():
    restored = lanes()
    restored.restore([lanes().state_by_global_row(first_row=0)], first_row=0, num_rows=4, micro_batch_size=2)
    assert not restored.get(1, num_rows=2)[0][0].any()


def test_a_stage_without_memory_has_nothing_to_forget():
    kept = lanes({4: Forgets()})
    kept.put(0, (None,))
    kept.forget(torch.tensor([True, False]))
    assert kept.is_empty


def test_lanes_of_which_one_says_it_in_fewer_columns_are_joined():
    """One rank's rows all began anew and keep one column for three equal ones; the other's go on."""
    short, wide = ((torch.full((2, 1), 5.0),),), ((torch.arange(6.0).view(2, 3),),)
    states = []
    for first_row, memories in ((0, short), (2, wide)):
        kept = lanes({3: LAYERS[3]})
        kept.put(0, memories)
        states.append(kept.state_by_global_row(first_row=first_row))
    restored = lanes({3: LAYERS[3]})
    restored.restore(states, first_row=0, num_rows=4, micro_batch_size=4)
    assert restored.get(0, num_rows=4)[0][0].tolist() == [[5, 5, 5], [5, 5, 5], [0, 1, 2], [3, 4, 5]]


def test_rows_that_all_begin_anew_here_are_kept_as_where_some_of_others_do() -> None:
    """Another layout's micro-batch holds rows that go on as well, and a layer may run, and draw, by the shape."""
    grown = tuple((torch.ones(2, 5), torch.ones(2)) for _ in range(2))  # by an earlier call: fresh ones have 1 column

    class Grows(Remembers):
        def initial_memory(self, batch_size, *, device, dtype):
            return torch.zeros(batch_size, 1, device=device, dtype=dtype), torch.zeros(batch_size, device=device)

    shapes = []
    for rows in ([True] * 4, [True, False, True, True]):
        kept = lanes({3: Grows()})
        for index, memory in enumerate(grown):
            kept.put(index, (memory,))
        kept.forget(torch.tensor(rows))
        shapes.append([kept.get(index, num_rows=2)[0][0].shape for index in range(2)])
        assert not kept.get(1, num_rows=2)[0][0].any()
    assert shapes[0] == shapes[1]


def test_rows_of_another_number_have_been_dealt_anew() -> None:
    kept = filled(0, num_micro_batches=2, size=2)
    kept.forget(torch.tensor([True] * 6))
    assert kept.is_empty
    assert not kept.get(0, num_rows=3)[0][0].any()


def test_a_layer_reads_what_an_earlier_version_saved():
    class Doubles(Remembers):
        def from_checkpoint(self, memory):
            return tuple(2 * tensor for tensor in memory)

    stage = lanes({7: Doubles()})
    stage.restore([filled(0, 1, 4).state_by_global_row(first_row=0)], first_row=1, num_rows=2, micro_batch_size=2)
    expected = tuple(2 * tensor for tensor in of_rows(range(1, 3))[2])
    assert same(stage.get(0, num_rows=2), (expected,))


def test_rows_that_remember_something_not_finite_are_found_whatever_holds_it() -> None:
    kept = filled(0, num_micro_batches=3, size=2)
    kept._lanes[0][0][0][1, 1] = torch.nan  # row 1, a matrix
    kept._lanes[2][2][1][0] = torch.inf  # row 4, a number per row
    assert kept.rows_not_finite(6).tolist() == [0, 1, 0, 0, 1, 0]
    kept.forget(kept.rows_not_finite(6).bool())
    assert kept.rows_not_finite(6).tolist() == [0] * 6
    assert kept._lanes[1][0][0].equal(of_rows(range(2, 4))[0][0])
    assert lanes({4: Forgets()}).rows_not_finite(6).tolist() == [0] * 6
