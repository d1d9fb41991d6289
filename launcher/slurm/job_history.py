"""jobs.jsonl: what Slurm was asked to do for a run and how each start of a job ended.

Events: `submit` and `cancel` come from here; `start` and `end` from slurm/train.sh, on the first node of the job, so
that a start is known even when its processes never got as far as attempts.jsonl. The budget of starts is kept by it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hierlm import strict_json
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records

SUBMIT, START, END, CANCEL = "submit", "start", "end", "cancel"

Event = dict[str, Any]


def record_submit(run_dir: RunDir, *, job_id: str, part: str | None = None) -> None:
    """A person put a job into the queue: its starts are counted from here. `part`: which link of a chain."""
    _append(run_dir, {"event": SUBMIT, "job_id": job_id, **({"part": part} if part else {})})


def record_cancel(run_dir: RunDir, *, job_ids: Sequence[str]) -> None:
    """A person ended the run's jobs."""
    _append(run_dir, {"event": CANCEL, "job_ids": list(job_ids)})


def read_history(run_dir: RunDir) -> list[Event]:
    """All whole events in the order they were written."""
    return [event for event in read_records(run_dir.jobs) if "event" in event]


def _append(run_dir: RunDir, event: Event) -> None:
    line = strict_json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **event})
    with run_dir.jobs.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
