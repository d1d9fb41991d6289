import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hierlm.errors import UserError
from hierlm.run_dir import RunDir
from launcher.cluster import ClusterProfile
from launcher.job import cluster_job, local_job
from launcher.slurm.sbatch import render
from tests.config.making import config


def shape(tmp_path: Path, world: int, **site: object) -> tuple[int, int]:
    run = config(tmp_path, f"parallel.data_parallel_degree={world}", f"phases.0.global_batch_size={world}")
    job = cluster_job(run, run_dir=RunDir(Path("runs/run")), site=ClusterProfile.model_validate(site))
    return job.num_nodes, job.tasks_per_node


@pytest.mark.parametrize(
    ("world", "per_node", "expected"),
    [(1, 8, (1, 1)), (8, 8, (1, 8)), (16, 8, (2, 8)), (6, 4, (2, 3)), (10, 8, (2, 5)), (7, 4, (7, 1)), (12, 8, (2, 6))],
)
def test_as_few_nodes_as_hold_the_run_alike(
    tmp_path: Path, world: int, per_node: int, expected: tuple[int, int]
) -> None:
    assert shape(tmp_path, world, processes_per_node=per_node) == expected


def test_more_nodes_than_the_site_allows_are_refused_with_the_arithmetic(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"24 processes \(data 24 x .* fill 3 nodes alike, allowed: 2 \(max_nodes\)"):
        shape(tmp_path, 24, max_nodes=2)


def test_all_degrees_count(tmp_path: Path) -> None:
    layout = [f"parallel.{name}_parallel_degree=2" for name in ("data", "tensor", "pipeline")]
    job = cluster_job(config(tmp_path, *layout), run_dir=RunDir(Path("r")), site=ClusterProfile(processes_per_node=4))
    assert (job.num_nodes, job.tasks_per_node, job.num_tasks, job.gpus_per_node) == (2, 4, 8, 4)


def test_a_job_on_a_cluster_has_absolute_paths(tmp_path: Path) -> None:
    job = cluster_job(config(tmp_path), run_dir=RunDir(Path("runs/run")), site=ClusterProfile())
    assert job.command == (sys.executable, "-m", "hierlm", str(Path.cwd() / "runs" / "run"))
    assert job.run_dir.path.is_absolute()


def test_the_sites_own_python_is_found_by_its_path(tmp_path: Path) -> None:
    job = cluster_job(config(tmp_path), run_dir=RunDir(Path("r")), site=ClusterProfile(venv="/opt/venv"))
    assert job.command[0] == "python"


def test_here_every_process_is_on_one_node(tmp_path: Path) -> None:
    job = local_job(config(tmp_path, "parallel.data_parallel_degree=8"), run_dir=RunDir(Path("runs/run")))
    assert (job.num_nodes, job.tasks_per_node) == (1, 8)
    assert job.command == (sys.executable, "-m", "hierlm", "runs/run")


def test_a_gpu_starts_kernels_in_order_where_sums_run_beside_products(tmp_path: Path) -> None:
    site = ClusterProfile(processes_per_node=4, environment={"NCCL_DEBUG": "WARN"})
    cut, whole = (
        cluster_job(config(tmp_path, f"parallel.tensor_parallel_degree={degree}"), run_dir=RunDir(Path("r")), site=site)
        for degree in (2, 1)
    )
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in render(cut)
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in render(whole)
    own = site.model_copy(update={"environment": {"CUDA_DEVICE_MAX_CONNECTIONS": "8"}})
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=8" in render(replace(cut, site=own))
