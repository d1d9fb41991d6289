"""Processes meet their own and nobody else, whatever ports others take, and leave no file behind."""

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from hierlm.parallel.rendezvous import listening_socket
from tests.distributed.spawn import run_ranks

pytestmark = pytest.mark.distributed


def met(run_dir: Path | None = None) -> tuple[float, list[str]]:
    """(sum of the ids that the processes of this job brought, addresses this process listens on)."""
    import psutil
    import torch
    import torch.distributed as dist

    from hierlm.parallel.process import start_processes, stop_processes
    from hierlm.run_dir import RunDir

    start_processes(None if run_dir is None else RunDir(run_dir))
    number = torch.tensor(float(os.environ["TEST_ID"]))
    dist.all_reduce(number)
    listening = [c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    dist.barrier()
    stop_processes()
    return number.item(), listening


def with_every_port_that_was_told_taken() -> tuple[float, list[str]]:
    """Another process has been quicker."""
    rank, told = int(os.environ["RANK"]), os.environ.get("MASTER_PORT")
    os.environ["TEST_ID"] = str(rank + 1)
    quicker = [socket.create_server(("127.0.0.1", int(told)))] if told and rank == 0 else []
    try:
        return met()
    finally:
        for other in quicker:
            other.close()


def test_no_port_is_told_before_somebody_listens_on_it_and_a_local_run_listens_on_the_loopback_alone() -> None:
    for total, listening in run_ranks(with_every_port_that_was_told_taken, 3):
        assert total == 1 + 2 + 3
        assert listening and set(listening) <= {"127.0.0.1", "::1"}


def alone_beside_others(folder: Path, num_others: int) -> tuple[float, list[str]]:
    """A run of one process; no process leaves its group before all have joined theirs."""
    from hierlm.parallel.process import start_processes

    os.environ["TEST_ID"] = os.environ["RANK"]
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    for name in ("HIERLM_MEETING_FILE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    start_processes()
    (folder / os.environ["TEST_ID"]).touch()
    while len(list(folder.iterdir())) <= num_others:
        time.sleep(0.02)
    return met()


def test_processes_that_train_alone_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    assert [total for total, _ in run_ranks(alone_beside_others, 3, tmp_path, 2)] == [0, 1, 2]


def in_a_slurm_step(run: Path) -> tuple[float, list[str]]:
    """Ranks 0 and 1 are one job, 2 and 3 another whose id is the same modulo 20,000."""
    place = int(os.environ["RANK"])
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "HIERLM_MEETING_FILE", "MASTER_PORT"):
        os.environ.pop(name, None)
    step = {"SLURM_JOB_ID": str(123 + 20_000 * (place // 2)), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"}
    os.environ.update(step, SLURM_PROCID=str(place % 2), SLURM_LOCALID=str(place % 2))
    os.environ.update(MASTER_ADDR="127.0.0.1", TEST_ID=str(10**place))
    return met(run)


def test_two_jobs_on_one_node_never_share_a_port(tmp_path: Path) -> None:
    """Even where they train the same run."""
    assert [total for total, _ in run_ranks(in_a_slurm_step, 4, tmp_path)] == [11, 11, 1100, 1100]
    assert list(tmp_path.iterdir()) == []


def own_address() -> str:
    """One by which other machines know this one; a skip where it has none."""
    import psutil

    of_all = [one for ones in psutil.net_if_addrs().values() for one in ones if one.family == socket.AF_INET]
    outside = [one.address for one in of_all if not one.address.startswith("127.")]
    if not outside:
        pytest.skip("this machine has no address but its loopback")
    return outside[0]


def known_by(address: str) -> tuple[float, list[str]]:
    """The processes meet at an address of this machine that is not its loopback."""
    os.environ.update(MASTER_ADDR=address, TEST_ID=os.environ["RANK"])
    return met()


def test_on_a_cluster_it_listens_on_the_address_the_others_know_and_on_no_other() -> None:
    address = own_address()
    (total, first), (_, second) = run_ranks(known_by, 2, address)
    assert total == 1 and address in first and set(first) | set(second) <= {address, "127.0.0.1"}


def test_a_name_that_tells_no_address_of_its_own_leaves_all_of_them() -> None:
    for host, expected in (("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), (own_address(), own_address())):
        with listening_socket(host) as listener:
            assert listener.getsockname()[0] == expected
    for host in ("192.0.2.254", "no-such-host.invalid", "127.0.1.1"):
        with listening_socket(host) as listener:
            assert listener.getsockname()[0] in ("::", "0.0.0.0")


def as_torchrun_starts_it() -> Any:
    """MASTER_ADDR and MASTER_PORT are set by somebody else, who serves the store."""
    import torch.distributed as dist

    rank, meeting = int(os.environ["RANK"]), Path(os.environ.pop("HIERLM_MEETING_FILE"))
    if rank == 0:
        agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        meeting.with_name("draft").write_text(str(agent.port))
        meeting.with_name("draft").rename(meeting)
    while not meeting.exists():
        time.sleep(0.02)
    os.environ.update(MASTER_PORT=meeting.read_text(), TORCHELASTIC_USE_AGENT_STORE="True", TEST_ID=str(rank))
    os.environ["TORCHELASTIC_RESTART_COUNT"] = "0"
    total = met()[0]
    if rank == 0:
        agent.wait(["rank 1 is done"])
    else:
        dist.TCPStore("127.0.0.1", int(meeting.read_text())).set("rank 1 is done", "")
    return total


def test_torchrun_has_its_say() -> None:
    assert run_ranks(as_torchrun_starts_it, 2) == [1, 1]
