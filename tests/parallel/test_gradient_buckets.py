"""Buckets leave in one order, as soon as they can, and are all received; few are under way at once."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from hierlm.optim.param_groups import in_buckets
from hierlm.parallel.gradient_buckets import GradientBuckets
from hierlm.parallel.zero import MOST_UNDER_WAY

NUM_PARAMETERS = 7


class Line:
    """What has been sent and received, by number of bucket."""

    def __init__(self) -> None:
        self.sent, self.received = list[int](), list[int]()

    def send(self, number: int) -> "Line":
        self.sent.append(number)
        assert len(self.sent) - len(self.received) <= MOST_UNDER_WAY
        return self

    def finish(self, out: Tensor) -> None:
        """Never called: what is received is told to `receive`."""

    def receive(self, number: int, scatter: object) -> None:
        assert scatter is self
        self.received.append(number)


def buckets_of(owners: list[int]) -> tuple[list[nn.Parameter], GradientBuckets, Line]:
    """Parameters in the model's order, each in the bucket that `owners` says."""
    parameters = [nn.Parameter(torch.zeros(1)) for _ in owners]
    numbers = sorted(set(owners))
    buckets = [[p for p, owner in zip(parameters, owners, strict=True) if owner == number] for number in numbers]
    line = Line()
    places = {parameter: place for place, parameter in enumerate(parameters)}
    return parameters, GradientBuckets(buckets, places=places, send=line.send, receive=line.receive), line


@given(
    st.lists(st.integers(0, 3), min_size=NUM_PARAMETERS, max_size=NUM_PARAMETERS),
    st.lists(st.integers(0, NUM_PARAMETERS - 1), unique=True),
)
def test_the_order_is_one_whatever_arrives_and_nothing_is_left_out(owners: list[int], arrivals: list[int]) -> None:
    parameters, buckets, line = buckets_of(owners)
    for _ in range(2):  # the second step is like the first
        line.sent, line.received = [], []
        for place in arrivals:
            buckets.arrived(parameters[place])
        early = len(line.sent)
        buckets.finish()
        assert line.sent == line.received == sorted(set(range(len(set(owners)))), key=lambda n: -first_of(owners, n))
        complete = [
            number
            for number in line.sent
            if all(place in arrivals for place, owner in enumerate(owners) if owner == sorted(set(owners))[number])
        ]
        assert early == len(complete) or line.sent[early] not in complete


def first_of(owners: list[int], number: int) -> int:
    """Where the first parameter of a bucket stands."""
    return owners.index(sorted(set(owners))[number])


@given(st.lists(st.integers(1, 9), min_size=1), st.integers(1, 12))
def test_buckets_hold_every_parameter_once_in_order_and_no_more_than_they_may(sizes: list[int], most: int) -> None:
    parameters = [nn.Parameter(torch.zeros(size)) for size in sizes]
    found = in_buckets([{"params": parameters, "weight_decay": 0.1}], most_values=most)
    assert [id(p) for group in found for p in group["params"]] == [id(p) for p in parameters]
    for group in found:
        assert group["weight_decay"] == 0.1
        assert len(group["params"]) == 1 or sum(p.numel() for p in group["params"]) <= most
    totals = [sum(p.numel() for p in group["params"]) for group in found]
    assert all(a + b[0].numel() > most for a, b in zip(totals, [g["params"] for g in found[1:]], strict=False))
