"""How the processes of a job come to share torch's store: rank 0 serves it on a port of its own (`hierlm.meeting`)."""

import os
import socket
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import torch.distributed as dist
from torch.distributed.rendezvous import register_rendezvous_handler

from hierlm.meeting import FILE_VARIABLE, announce, announced_port, meeting_file
from hierlm.run_dir import RunDir

SCHEME = "hierlm"


def init_method(world_size: int, *, run_dir: RunDir | None) -> str:
    """What torch.distributed is told.

    A process alone meets itself. Several meet through the meeting file, or as MASTER_ADDR and MASTER_PORT say where
    somebody else has set them (torchrun) and where there is no file.
    """
    if world_size == 1:
        return f"{SCHEME}:?" + urlencode({"host": "127.0.0.1"})
    file = meeting_file(run_dir)
    if file is None or ("MASTER_PORT" in os.environ and FILE_VARIABLE not in os.environ):
        return "env://"
    return f"{SCHEME}:?" + urlencode({"host": _host(), "file": file})


def _host() -> str:
    """Where rank 0 is if nobody has said so: on this machine if all are, else on the first node of the step."""
    if "MASTER_ADDR" in os.environ:
        return os.environ["MASTER_ADDR"]
    if os.environ.get("SLURM_STEP_NUM_NODES") == "1":
        return "127.0.0.1"
    command = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def _join(url: str, *, timeout: timedelta, **_: Any) -> Iterator[tuple[dist.Store, int, int]]:
    """(store, rank, world size): what a rendezvous handler of torch yields."""
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    said = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    file = Path(said["file"]) if "file" in said else None
    if rank == 0:
        store = _served(said["host"], file, world_size=world_size, timeout=timeout)
    else:
        assert file is not None
        port = announced_port(file, timeout_seconds=timeout.total_seconds())
        store = dist.TCPStore(said["host"], port, world_size, is_master=False, timeout=timeout)
    yield store, rank, world_size


def _served(host: str, file: Path | None, *, world_size: int, timeout: timedelta) -> dist.TCPStore:
    """The store, once all have come; then the file is gone, so that nobody finds it who comes for another one."""
    listener = listening_socket(host)
    port = listener.getsockname()[1]
    if file is not None:
        announce(port, file)
    try:
        return dist.TCPStore(
            host, port, world_size, is_master=True, timeout=timeout, master_listen_fd=listener.detach()
        )
    finally:
        if file is not None:
            file.unlink()


def listening_socket(host: str) -> socket.socket:
    """Open on the address by which the others know `host`, and on no other: to this machine alone on its loopback.

    Where names tell no address of this machine, or only its loopback while others come from elsewhere (Debian gives a
    host's own name to 127.0.1.1), on every address.
    """
    known = _addresses(host)
    is_loopback = [ip_address(address).is_loopback for _, address in known]
    if host in ("127.0.0.1", "::1", "localhost"):
        known = [(socket.AF_INET, "127.0.0.1")]
    elif all(is_loopback):
        known = []
    else:
        known = [place for place, loops in zip(known, is_loopback, strict=True) if not loops]
    for family, address in known:
        listener = socket.socket(family)
        try:
            listener.bind((address, 0))
        except OSError:  # of another machine, or of a family that is off here
            listener.close()
            continue
        listener.listen(socket.SOMAXCONN)
        return listener
    return _on_every_address()


def _addresses(host: str) -> list[tuple[int, str]]:
    """(family, address) as names are looked up here, the first choice first."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return list(dict.fromkeys((family, str(place[0]).partition("%")[0]) for family, _, _, _, place in found))


def _on_every_address() -> socket.socket:
    if socket.has_dualstack_ipv6():
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    else:
        listener = socket.socket()
    listener.bind(("", 0))
    listener.listen(socket.SOMAXCONN)
    return listener


register_rendezvous_handler(SCHEME, _join)
