"""What the network between processes carries, measured: python -m hierlm.parallel.fabric FOLDER [MEBIBYTES].

Each link alone and all together: a slow cable shows in one pair, a wrong interface in all. Figures are bytes that cross
a process's link: an all-reduce of S bytes over N processes moves 2 S (N - 1) / N of them each way, as in a ring.
Needs torch, and no DeepSpeed; the first process writes FOLDER/fabric.json.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from hierlm.durable import rename
from hierlm.parallel.messages import gathered
from hierlm.parallel.rendezvous import init_method
from hierlm.run_dir import RunDir

RESULT = "fabric.json"
REPEATS = 5
GIGABYTE = 1e9


class Place(NamedTuple):
    """Who a process is."""

    rank: int
    host: str

    def __str__(self) -> str:
        return f"rank {self.rank} ({self.host})"


def measure(num_bytes: int, device: torch.device) -> dict[str, Any] | None:
    """Bandwidths in bytes/1e9 per second, on the first rank; every rank calls it."""
    values = torch.ones(max(1, num_bytes // 4), device=device)
    world_size = dist.get_world_size()
    places = gathered(Place(dist.get_rank(), socket.gethostname()))
    seconds = median(_timed(lambda: dist.all_reduce(values), device) for _ in range(REPEATS))
    of_all = gathered(2 * num_bytes * (world_size - 1) / world_size / seconds / GIGABYTE)
    received = [_from_the_one_before(values, device, odd=odd) for odd in (0, 1)]
    links = gathered(next((rate for rate in received if rate is not None), None))
    if dist.get_rank() != 0:
        return None
    return {"places": places, "all_reduce": min(of_all), "links": _links(places, links)}


def _timed(action: Callable[[], object], device: torch.device) -> float:
    dist.barrier()
    started = perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - started


def _from_the_one_before(values: torch.Tensor, device: torch.device, *, odd: int) -> float | None:
    """Every second process sends to the next one; what came, on those that receive in this round."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    sends = rank % 2 == odd and rank + 1 < world_size
    receives = rank % 2 != odd and rank > 0

    def pass_on() -> None:
        if sends:
            dist.send(values, rank + 1)
        elif receives:
            dist.recv(values, rank - 1)

    seconds = median(_timed(pass_on, device) for _ in range(REPEATS))
    return values.nbytes / seconds / GIGABYTE if receives else None


def _links(places: list[Place], rates: list[float | None]) -> list[dict[str, Any]]:
    """Each pair of neighbours, the slowest first."""
    pairs = zip(places, places[1:], rates[1:], strict=False)
    found = [
        {"between": f"{one} -> {other}", "same_host": one.host == other.host, "rate": rate}
        for one, other, rate in pairs
        if rate is not None
    ]
    return sorted(found, key=lambda link: link["rate"])


def _start(folder: Path) -> torch.device:
    """As `hierlm.parallel.process` does for a run, without DeepSpeed."""

    def number(*names: str) -> int:
        return next(int(os.environ[name]) for name in names if name in os.environ)

    rank, world_size = number("RANK", "SLURM_PROCID"), number("WORLD_SIZE", "SLURM_NTASKS")
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", number("LOCAL_RANK", "SLURM_LOCALID")) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if has_gpu else "gloo", init_method=init_method(world_size, run_dir=RunDir(folder)))
    return device


def main() -> None:
    folder = Path(sys.argv[1])
    num_bytes = int(float(sys.argv[2] if len(sys.argv) > 2 else 64) * 2**20)
    device = _start(folder)
    found = measure(num_bytes, device)
    if found is not None:
        hosts = sorted({place.host for place in found["places"]})
        result = {
            "num_processes": dist.get_world_size(),
            "backend": dist.get_backend(),
            "hosts": hosts,
            "num_bytes": num_bytes,
            "all_reduce_gigabytes_per_second": found["all_reduce"],
            "links": found["links"],
        }
        draft = folder / f".{RESULT}"
        draft.write_text(json.dumps(result), encoding="utf-8")
        rename(draft, folder / RESULT)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
