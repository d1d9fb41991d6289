"""A run of several processes on one machine listens where nobody outside reaches it, from its start to its end."""

import socket
import struct
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import hierlm_path, quiet_environment
from tests.end_to_end.test_runs_of_0_1 import FIXTURE

LISTENING = "0A"
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def listeners() -> dict[str, str]:
    """Inode of a listening TCP socket of this machine -> the address it listens on, as the kernel lists them."""
    found: dict[str, str] = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENING:
                found[inode] = address(local.partition(":")[0])
    return found


def address(text: str) -> str:
    """The kernel prints words of four bytes in the machine's order."""
    words = struct.pack(f"={len(text) // 8}I", *(int(text[at : at + 8], 16) for at in range(0, len(text), 8)))
    return socket.inet_ntop(socket.AF_INET if len(words) == 4 else socket.AF_INET6, words)


def sockets_of(pid: int) -> Iterator[str]:
    """Inodes of the sockets that a process and those it started hold."""
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                name = str(link.readlink())
                if name.startswith("socket:["):
                    yield name[len("socket:[") : -1]
        except OSError:  # it has ended, or closed the file just now
            continue


def test_the_kernel_is_read_right() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("", 0)) as far:
        inodes = {str(Path(f"/proc/self/fd/{s.fileno()}").readlink())[len("socket:[") : -1]: s for s in (near, far)}
        found = listeners()
        assert [found[inode] for inode in inodes] == ["127.0.0.1", "0.0.0.0"]
        assert set(inodes) <= set(sockets_of(psutil.Process().pid))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("more", [pytest.param([], marks=pytest.mark.matrix), ["checkpoint.asynchronous=true"]])
def test_a_local_run_listens_on_the_loopback_alone(more: list[str], tmp_path: Path) -> None:
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(tmp_path, filter="data")
    words = [hierlm_path(), "train", "xl.yaml", "name=alone", "parallel.data_parallel_degree=2", *more]
    seen: set[str] = set()
    outside = {name: value for name, value in quiet_environment().items() if not name.startswith("GLOO_")}
    with subprocess.Popen(
        words, cwd=tmp_path, env=outside, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as run:
        while run.poll() is None:
            there = listeners()
            seen |= {there[inode] for inode in sockets_of(run.pid) if inode in there}
            time.sleep(0.05)
        assert run.returncode == 0, run.stderr and run.stderr.read()
    assert seen and seen <= LOOPBACK, seen
