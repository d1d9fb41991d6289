"""What a preparation has settled and finished, in synced lines: where `--resume` and the tasks of an array go on.

`prepare.journal` holds one line, the header: everything that decides the output. Every part of the corpus has a
journal of its own with one line per finished shard.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.prepare.pieces import Position
from data_pipeline.shard_index import ShardRecord

FILE_NAME = "prepare.journal"


@dataclass
class PartState:
    """Finished shards by split, and the next token: `skip_tokens` into the piece that begins at `position`."""

    shards: dict[str, list[ShardRecord]] = field(default_factory=dict)
    position: Position | None = None
    skip_tokens: int = 0
    finished: bool = False


class Journal:
    """The journals of one output folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / FILE_NAME

    def begin(self, header: dict[str, Any]) -> None:
        self.path.write_bytes(b"")
        _append(self.path, header)

    def header(self) -> dict[str, Any] | None:
        """What `begin` wrote, None when nothing was begun or a crash cut it off."""
        lines = _complete_lines(self.path)
        return lines[0] if lines else None

    def part(self, number: int) -> "PartJournal":
        return PartJournal(self._folder / f"prepare.part-{number:03d}.journal")

    def remove(self) -> None:
        """Once dataset.json says it all."""
        for path in [*self._folder.glob("prepare.part-*.journal"), self.path]:
            path.unlink(missing_ok=True)


class PartJournal:
    """The append-only list of a part's finished shards."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> PartState:
        """The state after the last complete line; a line cut off by a crash did not happen, and goes."""
        state = PartState()
        for entry in _complete_lines(self.path):
            if "finished" in entry:
                state.finished = True
                continue
            state.shards.setdefault(entry["split"], []).append(ShardRecord.model_validate(entry["shard"]))
            state.position, state.skip_tokens = Position(*entry["position"]), entry["skip_tokens"]
        return state

    def drop_cut_off_line(self) -> None:
        """So that the next entry begins a line."""
        with self.path.open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)

    def shard_finished(self, split: str, record: ShardRecord, *, position: Position, skip_tokens: int) -> None:
        entry = {"split": split, "shard": record.model_dump(), "position": position, "skip_tokens": skip_tokens}
        _append(self.path, entry)

    def part_finished(self) -> None:
        _append(self.path, {"finished": True})


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    except FileNotFoundError:
        return []
    except (ValueError, RecursionError):
        raise DataError(f"{path}: damaged; remove the folder and prepare again") from None


def _append(path: Path, entry: dict[str, Any]) -> None:
    with path.open("ab") as file:
        file.write(json.dumps(entry, sort_keys=True, allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
