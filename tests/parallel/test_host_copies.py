"""Copies that training cannot change, in memory that the next copies use again."""

from collections import OrderedDict
from typing import Any

import torch

from hierlm.parallel.host_copies import HostCopies
from hierlm.parallel.memory_lanes import LaneState


def state() -> Any:
    flat = torch.arange(12.0)
    return {
        "view": flat[2:8].view(2, 3),
        "column": flat.view(3, 4)[:, 1],
        "again": flat[2:8].view(2, 3),
        "nested": OrderedDict(step=torch.tensor(3.0), groups=[{"lr": 0.1}, ("a", torch.ones(2, dtype=torch.bfloat16))]),
        "empty": torch.empty(0),
        "lanes": LaneState(4, {1: (torch.full((2, 2), 7.0),)}),
        "nothing": None,
    }


def test_a_copy_is_equal_and_of_the_same_structure() -> None:
    before, copy = state(), HostCopies(pinned=False).take(state())
    assert torch.equal(copy["view"], before["view"]) and torch.equal(copy["column"], before["column"])
    assert type(copy["nested"]) is OrderedDict and copy["nested"]["step"] == 3.0
    assert copy["nested"]["groups"][0] == {"lr": 0.1}
    assert copy["nested"]["groups"][1][1].dtype == torch.bfloat16
    assert copy["empty"].shape == (0,) and copy["nothing"] is None
    assert isinstance(copy["lanes"], LaneState) and bool((copy["lanes"].memories[1][0] == 7.0).all())


def test_what_happens_to_the_state_afterwards_does_not_reach_the_copy() -> None:
    source = {"weights": torch.ones(3), "more": [torch.ones(3)], "settings": {"lr": 0.1}}
    copy = HostCopies(pinned=False).take(source)
    source["weights"].zero_()  # type: ignore[attr-defined]
    source["more"][0].zero_()  # type: ignore[index]
    source["settings"]["lr"] = 0.2  # type: ignore[index]
    assert copy["weights"].sum() == 3.0 and copy["more"][0].sum() == 3.0 and copy["settings"] == {"lr": 0.1}


def test_a_view_is_copied_alone_and_what_is_held_twice_once() -> None:
    copy = HostCopies(pinned=False).take(state())
    assert copy["view"].untyped_storage().nbytes() == 6 * 4
    assert copy["again"].data_ptr() == copy["view"].data_ptr()


def test_the_next_copies_use_the_same_memory() -> None:
    copies = HostCopies(pinned=False)
    source = [torch.ones(4), torch.zeros(4), torch.ones(2)]
    first = [tensor.data_ptr() for tensor in copies.take(source)]
    assert len(set(first)) == 3
    second = copies.take([tensor + 1 for tensor in source])
    assert [tensor.data_ptr() for tensor in second] == first
    assert [tensor.tolist() for tensor in second] == [[2.0] * 4, [1.0] * 4, [2.0] * 2]
