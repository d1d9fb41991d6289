"""What state a run is in: a judgement over its own files first, Slurm's queue second, Slurm's memory last."""

import os
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from hierlm.errors import NoAnswerError
from hierlm.exit_codes import STOPPED
from hierlm.tracking.believable import moment
from launcher.slurm.client import CANCELLED, QueuedJob
from launcher.slurm.job_history import (
    CANCEL,
    END,
    NOT_CANCELLED,
    START,
    SUBMIT,
    Event,
    open_jobs,
)

State = Literal["new", "waiting", "running", "finished", "stopped", "failed", "cancelled", "unknown"]

ACTIVE: tuple[State, ...] = ("waiting", "running")
"""Something waits or runs."""
MAY_WRITE: tuple[State, ...] = (*ACTIVE, "unknown")
"""Something may still be written by a run in these states."""

_WITHOUT_A_WORD = "ended without a word: killed, out of memory, or its node was lost"


@dataclass(frozen=True)
class Evidence:
    """Everything the judgement rests on. `queue` is None where Slurm cannot be asked: that is no empty queue."""

    is_finished: bool
    attempts: Sequence[dict[str, Any]]
    history: Sequence[Event]
    queue: Sequence[QueuedJob] | None
    final_state: Callable[[str], str | None]  # NoAnswerError where Slurm does not answer
    has_job_script: bool = False


@dataclass(frozen=True)
class Verdict:
    """A state and, where it needs one, the reason in one line."""

    state: State
    reason: str | None = None


def judge(evidence: Evidence) -> Verdict:
    """The state of a run."""
    if evidence.is_finished:
        return Verdict("finished")
    started = [job for job in evidence.queue or () if not job.is_waiting]
    if started:
        return Verdict("running", None if _has_begun(evidence, started[0]) else "starting")
    if evidence.queue:
        return Verdict("waiting", why_waiting(evidence.queue[0], evidence.history))
    return _not_in_the_queue(evidence)


def why_waiting(job: QueuedJob, history: Sequence[Event]) -> str:
    """Slurm's reason, and whether the job has run before."""
    again = any(event["event"] == START and event.get("job_id") == job.job_id for event in history)
    parts = ["requeued"] if again else []
    parts += [job.reason] if job.reason else []
    parts += [f"starts at {job.starts_at}"] if job.starts_at else []
    return ", ".join(parts) or "just submitted"


def count_attempts(evidence: Evidence) -> int:
    """Starts of the run, those that ended before the first step included."""
    starts = [record for record in evidence.attempts if record["event"] == "start"]
    in_jobs = sum(1 for record in starts if record.get("job_id") is not None)
    job_starts = sum(1 for event in evidence.history if event["event"] == START)
    return len(starts) - in_jobs + max(in_jobs, job_starts)


def local_process(attempts: Sequence[dict[str, Any]]) -> int | None:
    """The process number of rank 0 if the last attempt was started on this machine outside Slurm and lives."""
    last: dict[str, Any] = attempts[-1] if attempts else {}
    if last.get("event") != "start" or last.get("job_id") is not None or last.get("host") != socket.gethostname():
        return None
    pid = last.get("pid")
    return pid if isinstance(pid, int) and _is_our_process(pid) else None


def _not_in_the_queue(evidence: Evidence) -> Verdict:
    if local_process(evidence.attempts) is not None:
        return Verdict("running")
    attempt = evidence.attempts[-1] if evidence.attempts else None
    event = evidence.history[-1] if evidence.history else None
    if event is None and attempt is None:
        may_wait = evidence.queue is None and evidence.has_job_script
        return Verdict("unknown", "Slurm cannot be asked") if may_wait else Verdict("new", "never started")
    if event is None or (attempt is not None and attempt.get("job_id") is None and _time(attempt) > _time(event)):
        assert attempt is not None
        return _after_attempt(attempt)
    return _after_job(event, evidence)


def _after_attempt(record: dict[str, Any]) -> Verdict:
    if record["event"] != "end":
        elsewhere = record.get("host") != socket.gethostname()
        return (
            Verdict("unknown", f"started on {record.get('host')}") if elsewhere else Verdict("failed", _WITHOUT_A_WORD)
        )
    stopped = str(record.get("why", "")).startswith(("stopped", "finished"))
    return Verdict("stopped" if stopped else "failed", _why(record))


def _after_job(event: Event, evidence: Evidence) -> Verdict:
    """The run's last job has left the queue, or Slurm cannot be asked about it."""
    if _is_cancelled(evidence.history):
        return Verdict("cancelled")
    left = open_jobs(evidence.history)
    own = str(event.get("job_id"))
    job_id = own if own in left or not left else left[-1]
    if evidence.queue is None and left:
        return Verdict("unknown", f"Slurm cannot be asked about job {job_id}")
    try:
        final = evidence.final_state(job_id) if left or _may_be_cancelled(event) else None
    except NoAnswerError:
        return Verdict("unknown", f"Slurm cannot be asked about job {job_id}")
    return Verdict("cancelled") if final == CANCELLED else _by_last_event(event, evidence, job_id=job_id, final=final)


def _by_last_event(event: Event, evidence: Evidence, *, job_id: str, final: str | None) -> Verdict:
    """`final`: how Slurm remembers the end of the job."""
    last = next((each for each in reversed(evidence.history) if each["event"] in (SUBMIT, START, END)), event)
    if last["event"] == END:
        return _after_end(last, evidence)
    if last["event"] == START:
        return Verdict("failed", f"job {job_id}: {final}" if final else f"job {job_id} {_WITHOUT_A_WORD}")
    return Verdict("failed", f"job {job_id} left the queue without a start" + (f" ({final})" if final else ""))


def _is_cancelled(history: Sequence[Event]) -> bool:
    """Whether the last word on the run's jobs is that a person ended them: `hierlm cancel`, or scancel as seen by the
    job script. What was submitted or has started since is another matter."""
    cancelled, by_us = False, set[str]()
    for event in history:
        kind, job_id = event["event"], str(event.get("job_id"))
        if kind == CANCEL:
            cancelled, by_us = True, set(map(str, event.get("job_ids", ())))
        elif kind in (NOT_CANCELLED, SUBMIT) or (kind == START and job_id not in by_us):
            cancelled = False
        elif kind == END and event.get("reason") == "cancelled":
            cancelled = True
    return cancelled


def _may_be_cancelled(end: Event) -> bool:
    """Whether a job that ended so may have been ended by a person without the job script knowing."""
    return end.get("exit_code") == STOPPED or "SIGTERM" in str(end.get("reason"))


def _after_end(event: Event, evidence: Evidence) -> Verdict:
    reason, own = event.get("reason"), _own_end(evidence)
    if event.get("exit_code") in (0, STOPPED):
        return Verdict("stopped", reason or own)
    return Verdict("failed", "; ".join(part for part in (reason, own) if part) or None)


def _own_end(evidence: Evidence) -> str | None:
    """What the attempt of the job's last start said at its end; None where it said nothing: an earlier one's reason is
    not this one's."""
    last = evidence.attempts[-1] if evidence.attempts else {}
    start = next((event for event in reversed(evidence.history) if event["event"] == START), None)
    if last.get("event") != "end" or last.get("job_id") is None or (start and _time(last) < _time(start)):
        return None
    return _why(last)


def _why(end: dict[str, Any]) -> str | None:
    """`SIGTERM` of `stopped (SIGTERM)`."""
    why = str(end.get("why", ""))
    found = re.fullmatch(r"(?:failed|stopped) \((.*)\)", why, flags=re.DOTALL)
    return (found[1] if found else why) or None


def _has_begun(evidence: Evidence, job: QueuedJob) -> bool:
    """Whether this start of the job has reached its first step."""
    last = evidence.attempts[-1] if evidence.attempts else {}
    start = next((e for e in reversed(evidence.history) if e["event"] == START), None)
    mine = last.get("event") == "start" and last.get("job_id") in (job.job_id, job.job_id.partition("_")[0])
    return mine and (start is None or _time(last) >= _time(start))


def _time(record: dict[str, Any]) -> datetime:
    found = moment(record)
    assert found is not None  # a line without a time is not believed
    return found


def _is_our_process(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"hierlm" in file.read()
    except OSError:
        return os.path.exists(f"/proc/{pid}")
