"""What state a run is in: a judgement over its own files first, Slurm's queue second, Slurm's memory last."""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from hierlm.exit_codes import STOPPED
from launcher.slurm.client import QueuedJob
from launcher.slurm.job_history import CANCEL, END, START, SUBMIT, Event

State = Literal["new", "waiting", "running", "finished", "stopped", "failed", "cancelled", "unknown"]

ACTIVE: tuple[State, ...] = ("waiting", "running")
"""Something may still be written by a run in these states."""

_WITHOUT_A_WORD = "ended without a word: killed, out of memory, or its node was lost"


@dataclass(frozen=True)
class Evidence:
    """Everything the judgement rests on. `queue` is None where Slurm cannot be asked."""

    is_finished: bool
    attempts: Sequence[dict[str, Any]]
    history: Sequence[Event]
    queue: Sequence[QueuedJob] | None
    final_state: Callable[[str], str | None]


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
        return Verdict("new", "never started")
    if event is None or (attempt is not None and attempt.get("job_id") is None and _time(attempt) > _time(event)):
        assert attempt is not None
        return _after_attempt(attempt)
    return _after_job(event, evidence)


def _after_attempt(record: dict[str, Any]) -> Verdict:
    why = str(record.get("why", ""))
    if record["event"] != "end":
        elsewhere = record.get("host") != socket.gethostname()
        return (
            Verdict("unknown", f"started on {record.get('host')}") if elsewhere else Verdict("failed", _WITHOUT_A_WORD)
        )
    state: State = "stopped" if why.startswith("stopped") else "failed"
    return Verdict(state, why.removeprefix(state).strip(" ()") or None)


def _after_job(event: Event, evidence: Evidence) -> Verdict:
    """The run's last job has left the queue, or Slurm cannot be asked about it."""
    if any(e["event"] == CANCEL for e in _since_last(SUBMIT, evidence.history)):
        return Verdict("cancelled")
    if event["event"] == END:
        return _after_end(event, evidence.attempts)
    job_id = str(event["job_id"])
    if evidence.queue is None:
        return Verdict("unknown", f"Slurm cannot be asked about job {job_id}")
    final = evidence.final_state(job_id)
    if final == "CANCELLED":
        return Verdict("cancelled")
    if event["event"] == START:
        return Verdict("failed", f"job {job_id}: {final}" if final else f"job {job_id} {_WITHOUT_A_WORD}")
    return Verdict("failed", f"job {job_id} left the queue without a start" + (f" ({final})" if final else ""))


def _after_end(event: Event, attempts: Sequence[dict[str, Any]]) -> Verdict:
    reason = event.get("reason")
    if event.get("exit_code") == STOPPED:
        return Verdict("stopped", reason)
    ends = [record for record in attempts if record["event"] == "end"]
    error = str(ends[-1].get("why", "")).removeprefix("failed").strip(" ()") if ends else ""
    return Verdict("failed", "; ".join(part for part in (reason, error) if part) or None)


def _has_begun(evidence: Evidence, job: QueuedJob) -> bool:
    """Whether this start of the job has reached its first step."""
    last = evidence.attempts[-1] if evidence.attempts else {}
    start = next((e for e in reversed(evidence.history) if e["event"] == START), None)
    mine = last.get("event") == "start" and last.get("job_id") in (job.job_id, job.job_id.partition("_")[0])
    return mine and (start is None or _time(last) >= _time(start))


def _since_last(kind: str, history: Sequence[Event]) -> list[Event]:
    positions = [position for position, event in enumerate(history) if event["event"] == kind]
    return list(history[positions[-1] if positions else 0 :])


def _time(record: dict[str, Any]) -> datetime:
    moment = datetime.fromisoformat(str(record["time"]))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _is_our_process(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"hierlm" in file.read()
    except OSError:
        return os.path.exists(f"/proc/{pid}")
