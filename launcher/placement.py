"""Which processes have to share a node: tensor-parallel ranks, which exchange every layer of every micro-batch.

Ranks of one tensor group are neighbours (hierlm/parallel/degrees.py), and every node gets as many processes as any
other: so they share a node where the number of processes on a node is a multiple of the tensor-parallel degree.
"""

import os
import re
from pathlib import Path

from hierlm.errors import UserError
from hierlm.parallel.config import ParallelConfig

FIELD = "parallel.tensor_parallel_degree"
WHY = "tensor-parallel processes exchange every layer and have to share a node"


def nodes_for(layout: ParallelConfig, *, processes_per_node: int) -> int:
    """The fewest nodes that hold the run alike, each tensor group on one of them. UserError where none do."""
    degree, world_size = layout.tensor_parallel_degree, layout.world_size
    if degree > processes_per_node or (world_size > processes_per_node and processes_per_node % degree):
        fits = [n for n in range(1, processes_per_node + 1) if processes_per_node % n == 0]
        raise UserError(
            f"{FIELD}: given {degree}, allowed: {', '.join(map(str, fits))}, which divide the {processes_per_node} "
            f"processes of a node (processes_per_node): {WHY}"
        )
    fewest = -(-world_size // processes_per_node)
    return next(n for n in range(fewest, world_size + 1) if world_size % n == 0 and (world_size // n) % degree == 0)


def problem_of_node(layout: ParallelConfig, *, tasks_per_node: int, num_nodes: int) -> str | None:
    """One line where so many processes on each of several nodes would part a tensor group."""
    degree = layout.tensor_parallel_degree
    if num_nodes == 1 or tasks_per_node % degree == 0:
        return None
    return (
        f"{FIELD}: given {degree} with {tasks_per_node} processes on each of {num_nodes} nodes, allowed: a divisor of "
        f"{tasks_per_node}: {WHY}; or take another number of nodes"
    )


def problem_here(layout: ParallelConfig, *, num_gpus: int | None) -> str | None:
    """One line where this machine has GPUs, and fewer than a tensor group needs."""
    degree = layout.tensor_parallel_degree
    if not num_gpus or degree <= num_gpus:
        return None
    return f"{FIELD}: given {degree}, allowed: at most {num_gpus}, the GPUs of this machine: {WHY}"


def gpus_here() -> int:
    """As many as a process of this machine may see; 0 where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")])
    return sum(1 for path in Path("/dev").glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name))
