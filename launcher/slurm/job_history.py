"""jobs.jsonl: what Slurm was asked to do for a run and how each start of a job ended.

Events: `submit`, `cancel` and `not cancelled` come from here; `start` and `end` from slurm/train.sh, on the first node
of the job, so that a start is known even when its processes never got as far as attempts.jsonl. The budget of starts is
kept by it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from hierlm import strict_json
from hierlm.run_dir import RunDir
from hierlm.tracking.believable import is_job_event
from hierlm.tracking.jsonl import read_records

SUBMIT, START, END, CANCEL, NOT_CANCELLED = "submit", "start", "end", "cancel", "not cancelled"

REQUEUE = "requeue"
"""What an `end` says comes then, if not `stop`."""

Event = dict[str, Any]


def record_submit(run_dir: RunDir, *, job_id: str, part: str | None = None) -> None:
    """A person put a job into the queue: its starts are counted from here. `part`: which link of a chain."""
    _append(run_dir, {"event": SUBMIT, "job_id": job_id, **({"part": part} if part else {})})


def record_cancel(run_dir: RunDir, *, job_ids: Sequence[str]) -> None:
    """A person ends the run's jobs."""
    _append(run_dir, {"event": CANCEL, "job_ids": list(job_ids)})


def record_not_cancelled(run_dir: RunDir, *, job_ids: Sequence[str]) -> None:
    """Slurm did not do what the last `cancel` says."""
    _append(run_dir, {"event": NOT_CANCELLED, "job_ids": list(job_ids)})


def open_jobs(history: Sequence[Event]) -> list[str]:
    """Jobs that may still wait or run: nothing says that they ended for good, or that another has come in their place.

    In the order in which they were first heard of.
    """
    found: dict[str, str] = {}  # job -> its last event
    for before, event in pairwise([None, *history]):
        assert event is not None
        kind, job_id = event["event"], str(event.get("job_id"))
        if kind == SUBMIT and not _is_next_link(event, before):
            found = {}  # a second job of a run is not submitted beside the first
        if kind == START:
            found = {job: last for job, last in found.items() if last != START}  # a run has one writer
        if kind == END and event.get("then") != REQUEUE:
            found.pop(job_id, None)
        elif kind in (CANCEL, NOT_CANCELLED):
            told = list(map(str, event.get("job_ids", ())))
            kept = {job: last for job, last in found.items() if job not in told}
            found = kept if kind == CANCEL else {**found, **dict.fromkeys(told, SUBMIT)}
        elif "job_id" in event:
            found[job_id] = kind
    return list(found)


def _is_next_link(event: Event, before: Event | None) -> bool:
    """Whether this submission belongs to the same chain as the one before."""
    return "part" in event and before is not None and before["event"] == SUBMIT and "part" in before


def read_history(run_dir: RunDir) -> list[Event]:
    """All whole events in the order they were written."""
    return read_records(run_dir.jobs, believe=is_job_event)


def _append(run_dir: RunDir, event: Event) -> None:
    line = strict_json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **event})
    with run_dir.jobs.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
