"""Messages are counted once each, whichever function of torch.distributed sends them."""

from typing import Any

import pytest
import torch
import torch.distributed as dist

from hierlm.parallel.process import start_processes
from tests.benchmarks.messages import counted
from tests.distributed.spawn import run_ranks


def sent_by_each_function() -> list[tuple[str, str, int, int]]:
    """(function, kind, values, bytes of a value)."""
    start_processes()
    whole, part = torch.ones(6, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)
    peer = 1 - dist.get_rank()
    own = [dist.new_group([rank]) for rank in range(2)][dist.get_rank()]
    calls: dict[str, Any] = {
        "all_reduce": lambda: dist.all_reduce(torch.ones(6)),
        "async": lambda: dist.all_reduce(torch.ones(6), async_op=True).wait(),
        "coalesced": lambda: dist.all_reduce_coalesced([torch.ones(2), torch.ones(4)]),
        "all_gather": lambda: dist.all_gather([torch.ones(3), torch.ones(3)], torch.ones(3)),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(whole, part),
        "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(part, whole),
        "all_to_all_single": lambda: dist.all_to_all_single(torch.empty(6), torch.ones(6)),
        "broadcast": lambda: dist.broadcast(whole, src=0),
        "batched": lambda: [
            work.wait()
            for work in dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, torch.ones(5), peer), dist.P2POp(dist.irecv, torch.ones(5), peer)]
            )
        ],
        "alone": lambda: dist.all_reduce(torch.ones(6), group=own),
        "barrier": dist.barrier,
    }
    found = []
    for name, call in calls.items():
        with counted() as messages:
            call()
        found += [(name, message.kind, message.values, message.value_bytes) for message in messages]
    dist.all_reduce(torch.ones(1))
    assert len(messages) == 0  # nothing is counted outside
    return found


@pytest.mark.slow
@pytest.mark.distributed
def test_every_function_is_counted_once_and_by_what_a_rank_must_send():
    expected = [
        ("all_reduce", "all_reduce", 12, 4),
        ("async", "all_reduce", 12, 4),
        ("coalesced", "all_reduce", 12, 4),
        ("all_gather", "all_gather", 6, 4),
        ("all_gather_into_tensor", "all_gather", 6, 2),
        ("reduce_scatter_tensor", "reduce_scatter", 6, 2),
        ("all_to_all_single", "all_to_all", 6, 4),
        ("broadcast", "broadcast", 6, 2),
        ("batched", "send", 5, 4),
    ]
    assert run_ranks(sent_by_each_function, 2) == [expected, expected]
