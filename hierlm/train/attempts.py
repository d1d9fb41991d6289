"""attempts.jsonl: one object per start and one per end of an attempt."""

import json
import os
import socket
from datetime import UTC, datetime
from typing import Any

from hierlm.run_dir import RunDir


def record_start(run_dir: RunDir, *, layout: dict[str, int], first_step: int) -> int:
    """Append the start of an attempt; its number, counted from 1."""
    attempt = sum(1 for r in read_attempts(run_dir) if r["event"] == "start") + 1
    _append(run_dir, {"event": "start", "attempt": attempt, "first_step": first_step, "layout": layout})
    return attempt


def record_end(run_dir: RunDir, *, attempt: int, last_step: int, why: str) -> None:
    """Append the end of an attempt. `why`: finished, stopped (SIGNAL), or failed (ERROR)."""
    _append(run_dir, {"event": "end", "attempt": attempt, "last_step": last_step, "why": why})


def read_attempts(run_dir: RunDir) -> list[dict[str, Any]]:
    """All whole records; a torn last line is skipped."""
    if not run_dir.attempts.exists():
        return []
    records = []
    for line in run_dir.attempts.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _append(run_dir: RunDir, record: dict[str, Any]) -> None:
    common = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "job_id": os.environ.get("SLURM_JOB_ID"),
    }
    with run_dir.attempts.open("a+b") as file:
        torn = file.seek(0, os.SEEK_END) > 0 and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write((b"\n" if torn else b"") + json.dumps({**record, **common}).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
