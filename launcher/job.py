"""JobSpec: nodes, tasks and command of a run, derived from its config and the site, never typed."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hierlm.config.rules import conflicts
from hierlm.config.run_config import RunConfig
from hierlm.errors import UserError
from hierlm.models.config import ModelConfig
from hierlm.parallel.config import ParallelConfig
from hierlm.run_dir import RunDir
from launcher.cluster import ClusterProfile
from launcher.placement import nodes_for


@dataclass(frozen=True)
class JobSpec:
    """One job: `num_nodes * tasks_per_node` processes that each execute `command` in `working_dir`."""

    name: str
    run_dir: RunDir
    working_dir: Path
    command: tuple[str, ...]
    num_nodes: int
    tasks_per_node: int
    site: ClusterProfile
    smaller: tuple[tuple[int, int], ...] = ()  # (nodes, data-parallel degree) it may shrink to, largest first
    environment: Mapping[str, str] = field(default_factory=dict)  # of each process, where nobody says otherwise
    layout: ParallelConfig = field(default_factory=ParallelConfig)  # of which tensor groups have to share a node

    @property
    def num_tasks(self) -> int:
        return self.num_nodes * self.tasks_per_node

    @property
    def gpus_per_node(self) -> int:
        return self.tasks_per_node * self.site.gpus_per_process


def local_job(config: RunConfig[ModelConfig], *, run_dir: RunDir) -> JobSpec:
    """The run on this machine, whatever its world size."""
    return JobSpec(
        name=config.name,
        run_dir=run_dir,
        working_dir=Path.cwd(),
        command=(sys.executable, "-m", "hierlm", str(run_dir.path)),
        num_nodes=1,
        tasks_per_node=config.parallel.world_size,
        site=ClusterProfile(),
        environment=_environment(config),
        layout=config.parallel,
    )


def cluster_job(config: RunConfig[ModelConfig], *, run_dir: RunDir, site: ClusterProfile) -> JobSpec:
    """The run on as few nodes of `site` as hold it, the same number of processes on each; UserError if none do."""
    num_nodes = _num_nodes(config, site)
    absolute = RunDir(Path(os.path.abspath(run_dir.path)))
    python = "python" if site.venv or site.conda_env or site.container else sys.executable
    return JobSpec(
        name=config.name,
        run_dir=absolute,
        working_dir=Path.cwd(),
        command=(python, "-m", "hierlm", str(absolute.path)),
        num_nodes=num_nodes,
        tasks_per_node=config.parallel.world_size // num_nodes,
        site=site,
        smaller=_smaller(config, num_nodes=num_nodes, min_nodes=site.min_nodes or num_nodes),
        environment=_environment(config),
        layout=config.parallel,
    )


def _environment(config: RunConfig[ModelConfig]) -> dict[str, str]:
    """With one queue a GPU starts kernels in the order they are given: a sum over tensor-parallel ranks before the
    products that need not wait for it. Without such sums more queues are better."""
    return {"CUDA_DEVICE_MAX_CONNECTIONS": "1"} if config.parallel.tensor_parallel_degree > 1 else {}


def _smaller(config: RunConfig[ModelConfig], *, num_nodes: int, min_nodes: int) -> tuple[tuple[int, int], ...]:
    """Every smaller number of nodes on which the same run is possible: whole models, whole batches."""
    found = []
    for fewer in range(num_nodes - 1, min_nodes - 1, -1):
        degree, rest = divmod(config.parallel.data_parallel_degree * fewer, num_nodes)
        parallel = config.parallel.model_copy(update={"data_parallel_degree": degree})
        if rest == 0 and degree > 0 and not conflicts(config.model_copy(update={"parallel": parallel})):
            found.append((fewer, degree))
    return tuple(found)


def _num_nodes(config: RunConfig[ModelConfig], site: ClusterProfile) -> int:
    layout = config.parallel
    num_nodes = nodes_for(layout, processes_per_node=site.processes_per_node)
    if site.max_nodes is not None and num_nodes > site.max_nodes:
        raise UserError(
            f"parallel: {layout.world_size} processes (data {layout.data_parallel_degree} x tensor "
            f"{layout.tensor_parallel_degree} x pipeline {layout.pipeline_parallel_degree}) at "
            f"{site.processes_per_node} per node fill {num_nodes} nodes alike, allowed: {site.max_nodes} (max_nodes)"
        )
    return num_nodes
