"""One Slurm for the whole test session, or a clear reason why there is none."""

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import TestCluster, wait_until, why_no_slurm


@pytest.fixture(scope="session")
def cluster() -> Iterator[TestCluster]:
    """Two nodes of 4 CPUs and 4 pretended GPUs. Where Slurm is installed and does not come up, tests fail."""
    reason = why_no_slurm()
    if reason:
        pytest.skip(reason)
    running = TestCluster("--nodes", "2")
    yield running
    running.down()


@pytest.fixture
def whole_cluster(cluster: TestCluster) -> Iterator[TestCluster]:
    """The cluster with both nodes up, before and after a test that breaks one."""
    yield cluster
    cluster.run("scancel", "--user", "root", check=False)
    for name in ("node1", "node2"):
        cluster.node("start", name)
        if cluster.has_namespaces:
            cluster.node("heal", name)
    wait_for_idle(cluster)


def wait_for_idle(cluster: TestCluster) -> None:
    """Until no job runs and both nodes can take one."""
    wait_until(
        lambda: set(cluster.run("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()) == {"idle"},
        seconds=60,
        what=lambda: cluster.run("sinfo", "-N"),
    )
