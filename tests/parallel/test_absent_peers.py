"""A rank without peers does its part of every collective that is known, counts it, and refuses the others."""

import pytest
import torch
import torch.distributed as dist

from hierlm.parallel.absent_peers import sent_bytes, without_peers
from hierlm.parallel.degrees import Degrees

DEGREE = 4


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_a_ring_would_send_is_counted(device):
    whole, share = torch.zeros(8, device=device), torch.ones(2, device=device)
    counts = []
    with without_peers(Degrees(tensor=DEGREE)) as groups:
        dist.all_reduce(whole, group=groups.tensor)
        counts.append(sent_bytes(groups.tensor))
        dist.all_gather_into_tensor(whole, share, group=groups.tensor)
        counts.append(sent_bytes(groups.tensor))
        dist.reduce_scatter_tensor(share, whole, group=groups.tensor)
        counts.append(sent_bytes(groups.tensor))
    assert counts == [2 * 24, 3 * 24, 4 * 24]  # three quarters of 32 bytes, and that twice
    if device == "cpu":
        assert whole.eq(1).all() and share.eq(1).all()


def test_what_is_not_counted_is_refused():
    with without_peers(Degrees(tensor=DEGREE)) as groups, pytest.raises(NotImplementedError, match="broadcast"):
        dist.broadcast(torch.zeros(1), src=0, group=groups.tensor)


@pytest.mark.parametrize("degrees", [Degrees(tensor=DEGREE), Degrees(pipeline=2, data=3, tensor=2)])
def test_the_groups_are_those_of_the_layout_and_gone_afterwards(degrees):
    with without_peers(degrees) as groups:
        sizes = {axis: getattr(groups, axis).size() for axis in degrees}
        assert sizes == dict(degrees) and groups.model.size() == degrees["tensor"] * degrees["pipeline"]
    assert not dist.is_initialized()
