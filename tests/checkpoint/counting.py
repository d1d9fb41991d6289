"""How often each rank touches the file system, counted where Python hands it over, and how long messages are."""

import builtins
import io
import os
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hierlm.checkpoint.team import Team
from tests.checkpoint.making import on_every_rank

TOUCHES = (
    "stat",
    "lstat",
    "scandir",
    "listdir",
    "open",
    "mkdir",
    "rename",
    "replace",
    "unlink",
    "remove",
    "rmdir",
    "link",
)

Touched = Counter[tuple[int, str]]
"""(rank, which call) -> times."""


@contextmanager
def touches_counted(folder: Path, rank: Callable[[], int]) -> Iterator[Touched]:
    """Inside, every call of `TOUCHES`, opened file and sync counts for the rank of `rank()`: of what is in the folder.

    Nothing is synced: a disk is not what is looked at.
    """
    found: Touched = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in TOUCHES:
            patch.setattr(os, name, _counted(getattr(os, name), name, found, folder, rank))
        opened = _counted(io.open, "open", found, folder, rank)
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        patch.setattr(os, "fsync", lambda descriptor: found.update([(rank(), "fsync")]))
        patch.setattr("hierlm.durable.ThreadPoolExecutor", _AtOnce)
        yield found


class _AtOnce(Executor):
    """Helpers of a rank count for it: their work is done on its own thread."""

    def __init__(self, max_workers: int) -> None:
        super().__init__()

    def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
        done: Future[Any] = Future()
        done.set_result(call(*given, **named))
        return done


def _counted(
    call: Callable[..., Any], name: str, found: Touched, folder: Path, rank: Callable[[], int]
) -> Callable[..., Any]:
    def counted(*given: Any, **named: Any) -> Any:
        is_inside = "dir_fd" in named or str(folder) in str(given[0] if given else "")
        if is_inside:  # of a descriptor, which is open already, nobody is asked
            found[rank(), name] += 1
        return call(*given, **named)

    return counted


def of_rank(found: Touched, rank: int) -> dict[str, int]:
    """By call."""
    return {name: times for (one, name), times in sorted(found.items()) if one == rank}


def counted_on(size: int, folder: Path, action: Callable[[Team], Any]) -> tuple[list[Any], Touched, int]:
    """What the action gave on each rank of a team of threads, its touches, and the longest message in bytes."""
    place, longest = threading.local(), [0]

    def measured(item: Any) -> Any:
        longest[0] = max(longest[0], len(pickle.dumps(item)))
        return item

    def run(team: Team) -> Any:
        place.rank = team.rank
        first = team.is_first
        watched = Team(
            team.rank,
            team.size,
            gather=lambda item: team.gather(measured(item)),
            tell=lambda item: team.tell(measured(item) if first else None),
            scatter=lambda items: team.scatter([measured(item) for item in items]),
        )
        return action(watched)

    before = threading.stack_size(1 << 18)
    try:
        with touches_counted(folder, lambda: getattr(place, "rank", -1)) as found:
            results = on_every_rank(size, run)
    finally:
        threading.stack_size(before)
    assert not any(rank < 0 for rank, _ in found), "a thread of no rank has touched files"
    return results, found, longest[0]
