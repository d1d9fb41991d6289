"""DeepSpeed's save, made safe: every file goes through the caller's hands, and no error leaves a rank waiting.

A rank that raises in the middle of `save_checkpoint` never reaches its closing barrier, and the others hang in it. So
errors are kept until all ranks are through, then raised.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.serialization import set_crc32_options

from hierlm.parallel.host_copies import HostCopies
from hierlm.parallel.seams.deepspeed_names import TorchCheckpointEngine
from hierlm.parallel.seams.engine import CheckpointFiles
from hierlm.parallel.seams.handle import overrides

OpenFile = Callable[[Path], AbstractContextManager[Any]]
"""Opens a new file for `torch.save`; raises at the end of the block what went wrong inside."""


WriteFile = Callable[[Any, Path], None]


@dataclass(frozen=True)
class HeldFiles:
    """What this rank has to write, copied: (path relative to the checkpoint, content). Training may go on."""

    files: Sequence[tuple[Path, Any]]

    def write(self, directory: Path, *, open_file: OpenFile) -> None:
        """Any thread may call it; raises the first error of this rank's files."""
        for path, content in self.files:
            _write(content, directory / path, open_file=open_file)


def save_engine(engine: Any, directory: Path, *, tag: str, client_state: dict[str, Any], open_file: OpenFile) -> None:
    """`engine.save_checkpoint` into `directory/tag`; raises the first error of this rank after the last barrier."""
    write = partial(_write, open_file=open_file)
    _save_through(engine, directory, write=write, tag=tag, client_state=client_state)


def hold_engine(engine: Any, copies: HostCopies, *, tag: str, client_state: dict[str, Any]) -> HeldFiles:
    """Copy what `save_engine` would write; every rank calls it, errors as there."""
    found: list[tuple[Path, Any]] = []

    def copy_all(content: Any, path: Path) -> None:
        found.append((path, content))

    _save_through(engine, Path(), write=copy_all, tag=tag, client_state=client_state)
    return HeldFiles(copies.take(found))


def writers_group() -> dist.ProcessGroup:
    """A group of all ranks for a thread beside the training one, which must not share the others; all ranks call it."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo")
    return group


def _save_through(engine: Any, directory: Path, *, write: WriteFile, tag: str, client_state: dict[str, Any]) -> None:
    files = _CallersFiles(write)
    own_files, own_scripts = engine.checkpoint_engine, engine.copy_recovery_script
    engine.checkpoint_engine = files
    engine.copy_recovery_script = _no_scripts
    try:
        engine.save_checkpoint(str(directory), tag=tag, client_state=client_state, save_latest=False)
    finally:
        engine.checkpoint_engine, engine.copy_recovery_script = own_files, own_scripts
    if files.error is not None:
        raise files.error


def _write(content: Any, path: Path, *, open_file: OpenFile) -> None:
    set_crc32_options(False)  # the manifest holds a SHA-256 of every file: a second checksum costs and adds nothing
    with open_file(path) as file:
        torch.save(content, file)


@overrides(CheckpointFiles)
class _CallersFiles(TorchCheckpointEngine):
    """Where DeepSpeed asks for its files to be written."""

    def __init__(self, write: WriteFile) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._write = write

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Writing makes what it needs; an error here would come before a barrier."""

    def save(self, state_dict: Any, path: str) -> None:
        if self.error is not None:
            return
        try:
            self._write(state_dict, Path(path))
        except Exception as error:
            self.error = error


def _no_scripts(save_path: str) -> None:
    """DeepSpeed copies two of its scripts beside every checkpoint; ours is read by `hierlm checkpoint`."""
