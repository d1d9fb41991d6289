"""The state of a run, from every kind of evidence a person may find."""

import os
import socket
from typing import Any, NoReturn

import pytest

from hierlm.errors import NoAnswerError
from launcher.runs.state import Evidence, count_attempts, judge, local_process
from launcher.slurm.client import QueuedJob

HERE = socket.gethostname()


def job(state: str = "RUNNING", job_id: str = "7", reason: str | None = None) -> QueuedJob:
    return QueuedJob(job_id, state, reason, 5, 100, None, "node1", "/runs/a/job.sbatch")


def attempt(event: str, minute: int, *, job_id: str | None = "7", **fields: Any) -> dict[str, Any]:
    common = {"host": "node1" if job_id else HERE, "pid": 2**22 + 1, "job_id": job_id}
    return {"event": event, "time": f"2026-01-01T00:{minute:02d}:00.000+00:00", **common, **fields}


def event(kind: str, minute: int, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "time": f"2026-01-01T00:{minute:02d}:00Z", "job_id": "7", **fields}


def evidence(**fields: Any) -> Evidence:
    nothing = {"is_finished": False, "attempts": [], "history": [], "queue": [], "final_state": lambda job_id: None}
    return Evidence(**{**nothing, **fields})


SUBMIT, START = event("submit", 0), event("start", 1)
REQUEUED = event("end", 3, exit_code=85, then="requeue", reason="stopped early")
GAVE_UP = event("end", 3, exit_code=1, then="stop", reason="gave up after 5 starts")
WRONG = event("end", 3, exit_code=2, then="stop", reason="the input is wrong")
BEGUN = attempt("start", 2)
CRASHED = attempt("end", 3, why="failed (ValueError: x)")
KILLED = event("end", 6, exit_code=137, then="stop", reason="exit 137")
PHASE_DONE = event("end", 4, exit_code=0, then="stop")
SCANCELLED = event("end", 3, exit_code=85, then="stop", reason="cancelled")
SIGTERMED = event("end", 3, exit_code=143, then="stop", reason="the job script was sent SIGTERM")
CANCEL = event("cancel", 1, job_ids=["7"])
CHAIN = [event("submit", 0, part="a"), event("submit", 0, job_id="8", part="b")]


def no_answer(job_id: str) -> NoReturn:
    raise NoAnswerError("scontrol: connection refused")


@pytest.mark.parametrize(
    ("found", "state", "reason"),
    [
        ({"is_finished": True, "queue": [job()]}, "finished", None),
        ({}, "new", "never started"),
        ({"history": [SUBMIT, START], "queue": [job()]}, "running", "starting"),
        ({"history": [SUBMIT, START], "attempts": [BEGUN], "queue": [job()]}, "running", None),
        ({"history": [SUBMIT], "queue": [job("PENDING", reason="Priority")]}, "waiting", "Priority"),
        (
            {"history": [SUBMIT, START, REQUEUED], "queue": [job("PENDING", reason="BeginTime")]},
            "waiting",
            "requeued, BeginTime",
        ),
        (
            {"history": [SUBMIT, START, REQUEUED, event("start", 5)], "attempts": [BEGUN], "queue": [job()]},
            "running",
            "starting",
        ),
        (
            {"history": [SUBMIT, START, GAVE_UP], "attempts": [BEGUN, CRASHED]},
            "failed",
            "gave up after 5 starts; ValueError: x",
        ),
        ({"history": [SUBMIT, START, WRONG]}, "failed", "the input is wrong"),
        ({"history": [SUBMIT, START, event("cancel", 2, job_ids=["7"])]}, "cancelled", None),
        (
            {"history": [SUBMIT, event("cancel", 1), event("submit", 2)], "queue": [job("PENDING")]},
            "waiting",
            "just submitted",
        ),
        ({"history": [SUBMIT], "final_state": lambda job_id: "CANCELLED"}, "cancelled", None),
        ({"history": [SUBMIT]}, "failed", "job 7 left the queue without a start"),
        ({"history": [SUBMIT, START], "final_state": lambda job_id: "OUT_OF_MEMORY"}, "failed", "job 7: OUT_OF_MEMORY"),
        ({"history": [SUBMIT, START], "queue": None}, "unknown", "Slurm cannot be asked about job 7"),
        ({"attempts": [attempt("end", 1, job_id=None, why="stopped (SIGTERM)")]}, "stopped", "SIGTERM"),
        ({"attempts": [attempt("end", 1, job_id=None, why="failed (OSError: full)")]}, "failed", "OSError: full"),
        # the reason is the last attempt's own
        ({"history": [SUBMIT, START, event("start", 5), KILLED], "attempts": [BEGUN, CRASHED]}, "failed", "exit 137"),
        (
            {"history": [SUBMIT, START, event("start", 5), KILLED], "attempts": [BEGUN, CRASHED, attempt("start", 5)]},
            "failed",
            "exit 137",
        ),
        (
            {"attempts": [BEGUN, attempt("end", 2, job_id=None, why="failed (ValueError: f(x))")]},
            "failed",
            "ValueError: f(x)",
        ),
        (
            {"history": [SUBMIT, START, PHASE_DONE], "attempts": [BEGUN, attempt("end", 3, why="finished phase a")]},
            "stopped",
            "finished phase a",
        ),
        # scancel, whenever it came
        ({"history": [SUBMIT, START, SCANCELLED]}, "cancelled", None),
        ({"history": [SUBMIT, START, SCANCELLED], "attempts": [BEGUN, CRASHED]}, "cancelled", None),
        ({"history": [SUBMIT, START, REQUEUED], "final_state": lambda job_id: "CANCELLED"}, "cancelled", None),
        ({"history": [SUBMIT, START, SIGTERMED], "final_state": lambda job_id: "CANCELLED"}, "cancelled", None),
        ({"history": [SUBMIT, START], "final_state": lambda job_id: "CANCELLED"}, "cancelled", None),
        (
            {"history": [*CHAIN, START, PHASE_DONE], "final_state": {"7": "COMPLETED", "8": "CANCELLED"}.get},
            "cancelled",
            None,
        ),
        (
            {
                "history": [SUBMIT, START, event("submit", 5, job_id="9"), event("end", 6, job_id="9", reason="why")],
                "final_state": {"7": "CANCELLED"}.get,
            },
            "failed",
            "why",
        ),
        # Slurm that does not answer has not said that there are no jobs
        ({"history": [SUBMIT, START, REQUEUED], "queue": None}, "unknown", "Slurm cannot be asked about job 7"),
        ({"history": [SUBMIT], "queue": None}, "unknown", "Slurm cannot be asked about job 7"),
        ({"history": [*CHAIN, START, PHASE_DONE], "queue": None}, "unknown", "Slurm cannot be asked about job 8"),
        ({"queue": None, "has_job_script": True}, "unknown", "Slurm cannot be asked"),
        ({"queue": None}, "new", "never started"),
        ({"history": [SUBMIT, START, WRONG], "queue": None}, "failed", "the input is wrong"),
        ({"history": [SUBMIT, START], "final_state": no_answer}, "unknown", "Slurm cannot be asked about job 7"),
        (
            {"history": [SUBMIT, CANCEL, event("not cancelled", 2, job_ids=["7"])], "queue": None},
            "unknown",
            "Slurm cannot be asked about job 7",
        ),
        ({"attempts": [attempt("start", 1, job_id=None, host="elsewhere")]}, "unknown", "started on elsewhere"),
        ({"attempts": [attempt("start", 1, job_id=None, pid=os.getpid())]}, "running", None),
        (
            {"history": [SUBMIT, START, GAVE_UP], "attempts": [attempt("end", 9, job_id=None, why="stopped (SIGINT)")]},
            "stopped",
            "SIGINT",
        ),
    ],
)
def test_the_judgement(found: dict[str, Any], state: str, reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.runs.state._is_our_process", lambda pid: pid == os.getpid())
    verdict = judge(evidence(**found))
    assert (verdict.state, verdict.reason) == (state, reason)


def test_a_process_that_died_without_a_word_is_a_failure() -> None:
    verdict = judge(evidence(attempts=[attempt("start", 1, job_id=None)]))
    assert verdict.state == "failed" and "without a word" in str(verdict.reason)


def test_starts_that_never_reached_the_first_step_are_counted() -> None:
    starts = [SUBMIT, START, event("start", 4), event("start", 6)]
    assert count_attempts(evidence(history=starts, attempts=[BEGUN])) == 3
    assert count_attempts(evidence(history=starts, attempts=[BEGUN, attempt("start", 9, job_id=None)])) == 4
    assert count_attempts(evidence(attempts=[attempt("start", 1, job_id=None)] * 2)) == 2


def test_a_recycled_process_number_is_not_taken_for_the_run() -> None:
    """Process 1 lives and is no training process."""
    assert local_process([attempt("start", 1, job_id=None, pid=1)]) is None
