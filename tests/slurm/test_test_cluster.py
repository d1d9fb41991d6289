"""slurm/test-cluster.sh: several clusters side by side, nodes that fail as real ones do, nothing left behind."""

import os
import random
import subprocess
from pathlib import Path
from time import sleep

import pytest

from tests.slurm.cluster import SCRIPT, TestCluster, wait_until

pytestmark = pytest.mark.slurm


@pytest.fixture
def moment() -> int:
    """A length of sleep in seconds that no other process of this machine sleeps: the task is known by it."""
    return random.randrange(10**6, 10**9)


def test_tasks_of_two_nodes_run_at_once(cluster):
    names = cluster.run("srun", "-N2", "-n4", "--ntasks-per-node=2", "bash", "-c", "echo $SLURMD_NODENAME").split()
    assert sorted(names) == ["node1", "node1", "node2", "node2"]


def test_nodes_have_their_own_host_name_and_address(cluster):
    if not cluster.has_namespaces:
        pytest.skip("this machine allows no namespaces: all nodes share its name and address")
    seen = cluster.run("srun", "-N2", "-n2", "bash", "-c", "echo $(hostname) $(hostname -I)").splitlines()
    assert sorted(line.split()[0] for line in seen) == ["node1", "node2"]
    assert len({line.split()[1] for line in seen}) == 2


@pytest.mark.parametrize("mode", ["namespaces", "plain"])
def test_a_second_cluster_lives_beside_the_first_and_leaves_nothing(cluster, mode, moment):
    if mode == "namespaces" and not cluster.has_namespaces:
        pytest.skip("this machine allows no namespaces")
    before = _bridges()
    second = TestCluster("--nodes", "1", "--mode", mode)
    job = second.run("sbatch", "--parsable", "--output=/dev/null", "--wrap", f"sleep {moment}")
    second.wait_for_state(job, "RUNNING", seconds=10)
    assert cluster.run("squeue", "-h", "-j", job, check=False) == ""
    second.down()
    assert not second.directory.exists()
    assert _bridges() == before
    assert not _running(f"sleep\0{moment}")
    assert not [line for line in _running("slurm") if str(second.directory) in line]
    assert cluster.run("srun", "-n1", "echo", "still here") == "still here"


def test_a_cluster_goes_with_its_owner(cluster, tmp_path_factory):
    directory = tmp_path_factory.mktemp("owned")
    owner = subprocess.Popen(["sleep", "600"])
    subprocess.run(
        ["bash", SCRIPT, "up", "--nodes", "1", "--owner", str(owner.pid), "--dir", directory], check=True, stdout=-3
    )
    owner.kill()
    owner.wait()
    wait_until(lambda: not directory.exists(), seconds=15, what=lambda: "the cluster is still there")


def test_a_power_cut_ends_every_task_of_the_node(whole_cluster, moment):
    job = whole_cluster.run("sbatch", "--parsable", "-w", "node2", "--output=/dev/null", "--wrap", f"sleep {moment}")
    whole_cluster.wait_for_state(job, "RUNNING", seconds=10)
    wait_until(lambda: bool(_running(f"sleep\0{moment}")), seconds=5)
    whole_cluster.node("fail", "node2")
    assert not _running(f"sleep\0{moment}")
    assert whole_cluster.node("status", "node2") == "node2 is down"
    assert whole_cluster.job(job)["JobState"] == "PENDING"  # requeued, and bound to the lost node


def test_without_its_slurmd_a_node_computes_on(whole_cluster, moment):
    job = whole_cluster.run("sbatch", "--parsable", "-w", "node2", "--output=/dev/null", "--wrap", f"sleep {moment}")
    whole_cluster.wait_for_state(job, "RUNNING", seconds=10)
    wait_until(lambda: bool(_running(f"sleep\0{moment}")), seconds=5)
    whole_cluster.node("term", "node2")
    wait_until(lambda: whole_cluster.node("status", "node2") == "node2 is up, slurmd is dead", seconds=5)
    sleep(1)
    assert _running(f"sleep\0{moment}")


def test_wrong_use_is_one_line():
    command = ["bash", SCRIPT, "node", "kill", "node1", "--dir", "/nonexistent"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "test-cluster: no cluster in /nonexistent\n"


def _bridges() -> set[str]:
    return {name for name in os.listdir("/sys/class/net") if name.startswith("hlm")}


def _running(pattern: str) -> list[str]:
    """Command lines of live processes that contain the pattern."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_text()
        except OSError:
            continue
        if pattern in line:
            found.append(line)
    return found
