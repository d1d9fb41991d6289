"""One rank of a layout without its peers: everything here slices and runs as ever, and nothing is sent.

Torch calls a process group's methods by name, for which there is no contract but its own backends: that is why what
is known of them stands here and nowhere else.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import Tensor

from hierlm.parallel.degrees import Degrees
from hierlm.parallel.groups import Groups, start_groups, stop_groups

BACKEND = "absent_peers"


class AbsentPeers(dist.ProcessGroup):
    """A group of which only this rank is there; every collective is done at once.

    What the rank would send is counted by the ring algorithms (Patarasuk & Yuan 2009): of n bytes n (g - 1) / g for a
    reduce-scatter, a gather or an exchange of all with all, twice that for an all-reduce.
    """

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]  # there is one without a store
        self.sent_bytes = 0.0

    def allreduce(self, tensors: list[Tensor], options: object = None) -> "Done":  # type: ignore[override]
        """Leaves this rank's part."""
        self._count(tensors[0], rounds=2)
        return Done()

    def all_gather_single(self, output: Tensor, input: Tensor, options: object = None) -> "Done":  # type: ignore[override]
        """Every rank's part is this one's."""
        self._count(output, rounds=1)
        for part in output.chunk(self.size()):
            part.copy_(input)
        return Done()

    def reduce_scatter_single(self, output: Tensor, input: Tensor, options: object = None) -> "Done":  # type: ignore[override]
        """Leaves this rank's part."""
        self._count(input, rounds=1)
        output.copy_(input.chunk(self.size())[self.rank()])
        return Done()

    def all_to_all_single(self, output: Tensor, input: Tensor, *_: object) -> "Done":  # type: ignore[override]
        """What every rank would send this one is what it keeps of its own."""
        self._count(input, rounds=1)
        output.copy_(input)
        return Done()

    def barrier(self, options: object = None) -> "Done":  # type: ignore[override]
        """Nobody is late."""
        return Done()

    def _count(self, tensor: Tensor, *, rounds: int) -> None:
        self.sent_bytes += rounds * tensor.nbytes * (self.size() - 1) / self.size()


class Done:
    """What a collective gives back, asked for at once or later."""

    def wait(self) -> bool:
        """There is nothing to wait for."""
        return True


def _refused(name: str) -> Callable[..., Any]:
    def refused(*_: object, **__: object) -> Any:
        raise NotImplementedError(f"plan: what {name} of torch.distributed sends is not counted")

    return refused


for _name in ("allgather", "alltoall_base", "broadcast", "gather", "reduce", "reduce_scatter",
              "scatter", "send", "recv"):  # fmt: skip
    setattr(AbsentPeers, _name, _refused(_name))


def _group(options: Any, _: object) -> AbsentPeers:
    return AbsentPeers(options.group_rank, options.group_size)


dist.Backend.register_backend(BACKEND, _group, extended_api=True, devices=["cpu"])


def sent_bytes(group: dist.ProcessGroup) -> float:
    """What the rank would have sent to the absent peers of this group so far."""
    assert isinstance(group, AbsentPeers)
    return group.sent_bytes


@contextmanager
def without_peers(degrees: Degrees) -> Iterator[Groups]:
    """The groups of the first rank of a layout, each of them `AbsentPeers`, in a process that has joined no others."""
    assert not dist.is_initialized(), "a rank that has peers can not do as if it had none"
    dist.init_process_group(BACKEND, store=dist.HashStore(), rank=0, world_size=degrees.world_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how to send faster
            yield start_groups(degrees)
    finally:
        stop_groups()
        dist.destroy_process_group()
