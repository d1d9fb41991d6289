"""Checkpoints without an engine, and teams of threads, for the torch-free half of this room."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hierlm.checkpoint.commit import Saved, save_checkpoint
from hierlm.checkpoint.layout import ENGINE
from hierlm.checkpoint.manifest import Facts, Layout
from hierlm.checkpoint.team import ALONE, Team
from hierlm.durable import FileRecord, FileWriter
from hierlm.lease import UNFENCED, Fence


def facts(step: int) -> Facts:
    return Facts(
        step=step,
        tokens_seen=step * 64,
        phase="pretrain",
        step_in_phase=step,
        layout=Layout(data_parallel_degree=2, zero_stage=1),
        precision="fp32",
        config_fingerprint="f" * 64,
        why="periodic",
    )


def write_two_files(step: int, *, team: Team = ALONE) -> Callable[[Path], dict[str, FileRecord]]:
    """Two files, their content told by step and rank."""

    def write(partial: Path) -> dict[str, FileRecord]:
        files = FileWriter(partial)
        with files.open(partial / ENGINE / f"hashed-{team.rank}") as file:
            file.write(f"weights of step {step} rank {team.rank} ".encode() * 100)
        with files.open(partial / "memory" / f"left-{team.rank}") as file:
            file.write(f"memory {step} {team.rank}".encode())
        return files.records

    return write


def save(checkpoints: Path, step: int, *, keep: int = 2, team: Team = ALONE, lease: Fence = UNFENCED) -> Saved:
    write = write_two_files(step, team=team)
    return save_checkpoint(checkpoints, facts=facts(step), write=write, team=team, keep=keep, lease=lease)


def on_every_rank(size: int, action: Callable[[Team], Any]) -> list[Any]:
    """What the action returns, or raises, on each rank of a team of threads."""
    slots: list[Any] = [None] * size
    barrier = threading.Barrier(size, timeout=300)

    def passed(rank: int, value: Any) -> list[Any]:
        slots[rank] = value
        barrier.wait()
        everyone = list(slots) if rank == 0 else slots[:1]
        barrier.wait()
        return everyone

    def team_of(rank: int) -> Team:
        return Team(
            rank,
            size,
            gather=lambda value: passed(rank, value) if rank == 0 else passed(rank, value)[:0],
            tell=lambda value: passed(rank, value)[0],
            scatter=lambda values: passed(rank, values)[0][rank],
        )

    def run(rank: int) -> Any:
        try:
            return action(team_of(rank))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(run, range(size)))


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
