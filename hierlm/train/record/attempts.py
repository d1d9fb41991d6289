"""attempts.jsonl: one object per start and one per end of an attempt; its number is the generation of its lease."""

import os
import socket
from datetime import UTC, datetime
from typing import Any

from hierlm import strict_json
from hierlm.lease import Lease
from hierlm.run_dir import RunDir
from hierlm.tracking import jsonl


def record_start(
    run_dir: RunDir, *, lease: Lease, layout: dict[str, int], first_step: int, unproven: str | None = None
) -> None:
    """Append the start of an attempt. TakenOverError if another one holds the run by now.

    `unproven`: how the loaded checkpoint differs from the saved one, where that was accepted.
    """
    lease.require_current()
    start = {"event": "start", "attempt": lease.generation, "first_step": first_step, "layout": layout}
    _append(run_dir, {**start, **({} if unproven is None else {"unproven": unproven})})


def record_end(run_dir: RunDir, *, lease: Lease, last_step: int, why: str) -> None:
    """Append the end of an attempt, as `record_start` does. `why`: finished, stopped (SIGNAL), or failed (ERROR)."""
    lease.require_current()
    _append(run_dir, {"event": "end", "attempt": lease.generation, "last_step": last_step, "why": why})


def read_attempts(run_dir: RunDir) -> list[dict[str, Any]]:
    """All whole records; a torn last line is skipped, and so is what is none."""
    return jsonl.read_attempts(run_dir.attempts)


def _append(run_dir: RunDir, record: dict[str, Any]) -> None:
    common = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job_id": os.environ.get("SLURM_JOB_ID"),
    }
    with run_dir.attempts.open("a+b") as file:
        torn = file.seek(0, os.SEEK_END) > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write((b"\n" if torn else b"") + strict_json.dumps({**record, **common}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
