"""Tensor groups share a node, or the run is refused in one line; nobody hopes for it."""

from pathlib import Path

import pytest

from hierlm.errors import UserError
from hierlm.parallel.config import ParallelConfig
from hierlm.parallel.degrees import Degrees
from hierlm.run_dir import RunDir
from launcher.cluster import ClusterProfile
from launcher.job import local_job
from launcher.placement import gpus_here, nodes_for, problem_here
from launcher.preflight import refuse_what_cannot_run
from launcher.submit import allocation
from tests.config.making import config


def layout(dp: int, tp: int, pp: int) -> ParallelConfig:
    return ParallelConfig(data_parallel_degree=dp, tensor_parallel_degree=tp, pipeline_parallel_degree=pp)


@pytest.mark.parametrize("per_node", [1, 2, 4, 6, 8])
def test_no_tensor_group_is_ever_parted(per_node: int) -> None:
    for dp, tp, pp in [(d, t, p) for d in (1, 2, 3, 5, 8) for t in (1, 2, 3, 4, 8) for p in (1, 2, 3)]:
        wanted = layout(dp, tp, pp)
        try:
            num_nodes = nodes_for(wanted, processes_per_node=per_node)
        except UserError as error:
            assert tp > per_node or per_node % tp
            assert len(error.problems) == 1 and f"given {tp}, allowed: 1" in error.problems[0]
            continue
        on_each = wanted.world_size // num_nodes
        assert on_each * num_nodes == wanted.world_size and on_each <= per_node
        for group in Degrees.of(wanted).groups("tensor"):
            assert len({rank // on_each for rank in group}) == 1


def test_a_degree_that_does_not_divide_a_node_is_refused_only_where_there_are_several() -> None:
    assert nodes_for(layout(2, 3, 1), processes_per_node=8) == 1
    with pytest.raises(UserError, match=r"given 3, allowed: 1, 2, 4, 8, which divide the 8 processes of a node"):
        nodes_for(layout(4, 3, 1), processes_per_node=8)


def test_an_allocation_that_would_part_groups_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = local_job(config(tmp_path, "parallel.tensor_parallel_degree=2"), run_dir=RunDir(tmp_path))
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    with pytest.raises(UserError, match="given 2 with 1 processes on each of 2 nodes, allowed: a divisor of 1"):
        allocation.run(job)


def test_this_machines_gpus_are_enough_or_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert problem_here(layout(1, 4, 1), num_gpus=0) is problem_here(layout(1, 4, 1), num_gpus=4) is None
    with pytest.raises(
        UserError, match=r"tensor_parallel_degree: given 2, allowed: at most 1, the GPUs of this machine"
    ):
        refuse_what_cannot_run(config(tmp_path, "parallel.tensor_parallel_degree=2"), num_gpus=1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert gpus_here() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus_here() == 0


def test_a_site_with_smaller_nodes_gets_more_of_them() -> None:
    assert ClusterProfile().processes_per_node == 8
    assert nodes_for(layout(3, 4, 1), processes_per_node=8) == 3  # two nodes of six would part a group
