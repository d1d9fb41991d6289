"""A rank whose disk is full fails alone and leaves no other waiting; the engine saves again afterwards."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hierlm.durable import FileWriter
from tests.checkpoint.layouts import overrides, small_engine
from tests.distributed.spawn import run_ranks


def save_with_a_full_disk(settings: list[str], full_rank: int, folder: str) -> tuple[Any, list[str]]:
    """(errno of the first save of this rank, files of the second)."""
    from hierlm.parallel.messages import gathered
    from hierlm.parallel.saving import save_engine

    engine, root = small_engine("transformer", settings), Path(folder)

    @contextmanager
    def full(path: Path) -> Iterator[Any]:
        yield _Nowhere()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    first = FileWriter(root / "first")
    open_file = full if engine.process.rank == full_rank else first.open
    failed = None
    try:
        save_engine(engine._engine, root / "first", tag="engine", client_state={}, open_file=open_file)
    except OSError as error:
        failed = error.errno
    everyone = gathered(engine.process.rank)
    assert everyone == (list(range(engine.process.world_size)) if engine.process.rank == 0 else [])
    second = FileWriter(root / "second")
    save_engine(engine._engine, root / "second", tag="engine", client_state={}, open_file=second.open)
    return failed, sorted(second.records)


class _Nowhere:
    def write(self, block: memoryview) -> int:
        return memoryview(block).nbytes

    def flush(self) -> None:
        """Nothing is kept."""


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("full_rank", [0, 1])
@pytest.mark.parametrize("layout", [{"dp": 2, "zero": 1}, {"pp": 2, "zero": 1}], ids=["data", "pipeline"])
def test_a_full_disk_on_one_rank(full_rank: int, layout: dict[str, int], tmp_path: Path) -> None:
    ranks = run_ranks(save_with_a_full_disk, 2, overrides(**layout), full_rank, str(tmp_path), timeout_seconds=600)
    assert [failed for failed, _ in ranks] == [errno.ENOSPC if rank == full_rank else None for rank in range(2)]
    written = {name for _, names in ranks for name in names}
    assert {str(p.relative_to(tmp_path / "second")) for p in (tmp_path / "second").rglob("*.*")} == written
    assert all(name.startswith("engine/") for name in written)
