"""DeepSpeed's save, made safe: every file goes through the caller's `open_file`, and no error leaves a rank waiting.

A rank that raises in the middle of `save_checkpoint` never reaches its closing barrier, and the others hang in it. So
errors are kept until all ranks are through, then raised.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

OpenFile = Callable[[Path], AbstractContextManager[Any]]
"""Opens a new file for `torch.save`; raises at the end of the block what went wrong inside."""


def save_engine(engine: Any, directory: Path, *, tag: str, client_state: dict[str, Any], open_file: OpenFile) -> None:
    """`engine.save_checkpoint` into `directory/tag`; raises the first error of this rank after the last barrier."""
    files = _CallersFiles(open_file)
    own_files, own_scripts = engine.checkpoint_engine, engine._copy_recovery_script
    engine.checkpoint_engine = files
    engine._copy_recovery_script = _no_scripts
    try:
        engine.save_checkpoint(str(directory), tag=tag, client_state=client_state, save_latest=False)
    finally:
        engine.checkpoint_engine, engine._copy_recovery_script = own_files, own_scripts
    if files.error is not None:
        raise files.error


def exchange_objects(value: Any) -> list[Any]:
    """What every rank passed, in rank order, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class _CallersFiles(TorchCheckpointEngine):
    """Where DeepSpeed asks for its files to be written."""

    def __init__(self, open_file: OpenFile) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._open_file = open_file

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """`open_file` makes what it needs; an error here would come before a barrier."""

    def save(self, state_dict: Any, path: str) -> None:
        if self.error is not None:
            return
        try:
            with self._open_file(Path(path)) as file:
                torch.save(state_dict, file)
        except Exception as error:
            self.error = error


def _no_scripts(directory: str) -> None:
    """DeepSpeed copies two of its scripts beside every checkpoint; ours is read by `hierlm checkpoint`."""
