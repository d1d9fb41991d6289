"""The text a run prints: which file holds it, its end, and what is added to it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hierlm.run_dir import RunDir

POLL_SECONDS = 0.3
TAIL_BLOCK_BYTES = 1 << 16


def newest_log(run_dir: RunDir) -> Path | None:
    """Where the run has said something last: the log of a job, or that of this machine's terminal."""
    logs = [*run_dir.logs.glob("job-*.log"), *run_dir.logs.glob(run_dir.console_log.name)]
    return max(logs, key=lambda path: path.stat().st_mtime_ns, default=None)


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` whole lines of a file of any size; all of them for 0."""
    with path.open("rb") as file:
        end = file.seek(0, 2)
        start, text = end, b""
        while start > 0 and (count == 0 or text.count(b"\n") <= count):
            start = max(0, start - TAIL_BLOCK_BYTES)
            file.seek(start)
            text = file.read(end - start)
    lines = text.decode("utf-8", "replace").splitlines()
    return lines[-count:] if count else lines


def follow(
    run_dir: RunDir, *, is_active: Callable[[], bool], path: Path | None = None, poll_seconds: float = POLL_SECONDS
) -> Iterator[str]:
    """New text as it is written, from the end of the newest log on, until the run is no longer active.

    A later job of the same run has a log of its own: once there is one, it is followed from its start. With `path`,
    only that file is.
    """
    current = path or newest_log(run_dir)
    position = current.stat().st_size if current else 0
    while True:
        active = is_active()
        if current is not None:
            text, position = _read_from(current, position)
            yield text
        newest = path or newest_log(run_dir)
        if newest != current and newest is not None:
            yield f"==> {newest}\n"
            current, position = newest, 0
        elif not active:
            return
        time.sleep(poll_seconds)


def _read_from(path: Path, position: int) -> tuple[str, int]:
    with path.open("rb") as file:
        file.seek(position)
        text = file.read()
    return text.decode("utf-8", "replace"), position + len(text)
