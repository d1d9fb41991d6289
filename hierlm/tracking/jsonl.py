"""metrics.jsonl: append-only, one JSON object per line, and the truth every other tracker follows.

A record is one `write` of one whole line, so a killed process leaves at most one torn line, the last.
Floats are written with `repr`: they come back bit for bit. NaN and infinities, which JSON does not know, are null.

Opening replaces the file by a copy: an earlier attempt that still lives appends to one without a name (lease.py).
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hierlm import strict_json
from hierlm.lease import UNFENCED, Fence
from hierlm.metric_names import STEP, TIME, Record
from hierlm.tracking.believable import is_attempt, is_metric

Believe = Callable[[Mapping[str, Any]], bool]

_COPY_BYTES = 1 << 20


class MetricsFile:
    """The writer's end. Opening it removes a torn last line; only one process may hold it."""

    def __init__(self, path: Path, *, lease: Fence = UNFENCED) -> None:
        """TakenOverError, as in `write`, when another attempt has the run; OSError leaves the file as it was."""
        self.path, self._lease = path, lease
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = lease.temporary(path)
        try:
            self._descriptor = os.open(copy, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            _copy_whole_lines(path, self._descriptor)
            os.fsync(self._descriptor)
            lease.publish(copy, path)
        except Exception:
            copy.unlink(missing_ok=True)
            raise

    def write(self, record: Record) -> None:
        """Append one record, with its `time` in unix seconds; OSError (disk full) leaves the file as it was.

        TakenOverError when another attempt has the run.
        The time is part of the record so that a tracker that hears of it twice knows it for the same.
        """
        line = strict_json.dumps({**record, TIME: record.get(TIME, time.time())}).encode() + b"\n"
        self._lease.require_current()
        size = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            os.ftruncate(self._descriptor, size)
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        if written != len(line):
            os.ftruncate(self._descriptor, size)
            raise OSError(f"{self.path}: wrote {written} of {len(line)} bytes; is the disk full?")

    def truncate_after(self, *, step: int) -> int:
        """Remove the records of steps after `step`, which a resumed run makes again; returns how many went.

        Steps never fall along the file, so everything from the first later record on is removed.
        """
        later = [offset for offset, record in _lines(self.path) if record.get(STEP, 0) > step]
        if later:
            os.ftruncate(self._descriptor, later[0])
            os.fsync(self._descriptor)
        return len(later)

    def close(self) -> None:
        """Bring the file to disk; may be called twice."""
        if self._descriptor >= 0:
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


def read_records(path: Path, *, believe: Believe = is_metric) -> list[dict[str, Any]]:
    """All whole records in order; none when the file does not exist. Lines that are no records are skipped:
    a torn one at the end is normal, and a power cut can leave a block of zeros."""
    return [record for _, record in _lines(path, believe=believe)] if path.exists() else []


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """The starts and ends in attempts.jsonl, as `read_records` does."""
    return read_records(path, believe=is_attempt)


def read_new_records(path: Path, *, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole records from byte `offset` on, and the offset to continue from."""
    end = _end_of_whole_lines(path) if path.exists() else 0
    return [record for _, record in _lines(path, offset=offset, end=end)] if end > offset else [], end


def _lines(
    path: Path, *, offset: int = 0, end: int | None = None, believe: Believe = is_metric
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(offset of the line, record) for every whole line before `end` that holds one to believe."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if end is not None and offset >= end:
                return
            if line.endswith(b"\n"):
                record = _parsed(line)
                if record is not None and believe(record):
                    yield offset, record
            offset += len(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _copy_whole_lines(path: Path, descriptor: int) -> None:
    if not path.exists():
        return
    left = _end_of_whole_lines(path)
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(left, _COPY_BYTES))):
            left -= len(block)
            while block:
                block = block[os.write(descriptor, block) :]


def _end_of_whole_lines(path: Path) -> int:
    """Offset just after the last newline."""
    block = 1 << 16
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - block)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0
