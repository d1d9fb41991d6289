"""Run a function on several gloo processes of this machine.

A fork server that has already imported what every rank needs, and what its test file does, makes a process start in
milliseconds.
"""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from hierlm.meeting import rank_environment

_PRELOAD = [
    "hierlm.parallel.engine",
    "hierlm.config.load",
    "hierlm.models.assembly",
    "hierlm.train.run",
    # what a DeepSpeed engine imports only when it is built, torch's compiler among it: a second of every rank
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.ops.op_builder.all_ops",
    "pytest",
    "hypothesis",
    "hierlm.contract.preloaded",  # the last: what the others have made is left out of collections
]
"""What is not installed is left out."""


class RankFailedError(AssertionError):
    """A rank raised or died; the message holds its traceback."""


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout_seconds: float = 900) -> list[Any]:
    """Call `function(*args)` on ranks 0..world_size-1 and return what each returned, in rank order.

    `function` is importable (top level of a module) and finds RANK, WORLD_SIZE, LOCAL_RANK and the meeting
    file in its environment; it starts the process group itself (`hierlm.parallel.process.start_processes`).
    """
    context = fork_server()
    results = context.Queue()
    with TemporaryDirectory(prefix="hierlm-ranks-") as folder:
        place = (world_size, Path(folder) / "meeting")
        ranks = [
            context.Process(target=_rank_main, args=(function, args, rank, place, results), daemon=True)
            for rank in range(world_size)
        ]
        for process in ranks:
            process.start()
        try:
            return _collect(ranks, results, deadline=monotonic() + timeout_seconds)
        finally:
            for process in ranks:
                process.kill()
                process.join()


def fork_server() -> Any:
    """The multiprocessing context whose processes have imported what a rank needs.

    The server starts with the first of them and inherits this process's environment.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    return context


def _rank_main(
    function: Callable[..., Any], args: tuple[Any, ...], rank: int, place: tuple[int, Path], results: Any
) -> None:
    world_size, meeting = place
    os.environ.update(rank_environment(rank, num_ranks=world_size, meeting=meeting))
    try:
        results.put((rank, True, function(*args)))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))


def _collect(ranks: list[Any], results: Any, *, deadline: float) -> list[Any]:
    values: dict[int, Any] = {}
    while len(values) < len(ranks):
        try:
            rank, ok, value = results.get(timeout=0.5)
        except Empty:
            dead = [r for r, p in enumerate(ranks) if p.exitcode not in (None, 0) and r not in values]
            if dead or monotonic() > deadline:
                what = f"ranks {dead} died" if dead else "timed out"
                raise RankFailedError(f"{what}; finished ranks: {sorted(values)}") from None
            continue
        if not ok:
            raise RankFailedError(f"rank {rank}:\n{value}")
        values[rank] = value
    return [values[rank] for rank in range(len(ranks))]
