"""What a preparation has finished, one synced line per shard: where `--resume` continues."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.pieces import Position
from data_pipeline.shard_index import ShardRecord

FILE_NAME = "prepare.journal"


@dataclass
class Progress:
    """Finished shards by split, and the next token: `skip_tokens` into the piece that begins at `position`."""

    shards: dict[str, list[ShardRecord]] = field(default_factory=dict)
    position: Position = field(default_factory=Position)
    skip_tokens: int = 0


class Journal:
    """An append-only file; its first line holds everything that decides what the output is."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    def begin(self, header: dict[str, Any]) -> None:
        self.path.write_bytes(b"")
        self._append(header)

    def read(self) -> tuple[dict[str, Any], Progress] | None:
        """(header, progress), or None when nothing was begun. A line cut off by a crash did not happen."""
        try:
            complete = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return None
        if not complete:
            return None
        try:
            header, *entries = [json.loads(line) for line in complete]
        except ValueError:
            raise DataError(f"{self.path}: damaged; remove the folder and prepare again") from None
        return header, _progress(entries)

    def keep_complete_lines(self) -> None:
        """Drop what a crash left of a last line, so that the next entry begins a line."""
        content = self.path.read_bytes()
        with self.path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)

    def shard_finished(self, split: str, record: ShardRecord, *, position: Position, skip_tokens: int) -> None:
        self._append({"split": split, "shard": record.model_dump(), "position": position, "skip_tokens": skip_tokens})

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("ab") as file:
            file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _progress(entries: list[dict[str, Any]]) -> Progress:
    progress = Progress()
    for entry in entries:
        progress.shards.setdefault(entry["split"], []).append(ShardRecord.model_validate(entry["shard"]))
        progress.position, progress.skip_tokens = Position(*entry["position"]), entry["skip_tokens"]
    return progress
