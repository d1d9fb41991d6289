"""End what a run has waiting or running, and say what is not known to have ended."""

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hierlm.errors import NoAnswerError
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_attempts
from launcher.runs.state import local_process
from launcher.runs.view import jobs_of
from launcher.slurm import client
from launcher.slurm.job_history import open_jobs, read_history, record_cancel, record_not_cancelled


@dataclass(frozen=True)
class Cancelled:
    """What was ended: Slurm jobs, and the first process of a run on this machine; `problems`: what may go on."""

    run_dir: RunDir
    job_ids: tuple[str, ...]
    process: int | None
    problems: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """For --json."""
        ended = {"cancelled_jobs": list(self.job_ids), "stopped_process": self.process}
        return {"run": self.run_dir.name, **ended, "problems": list(self.problems)}

    def lines(self) -> Iterator[str]:
        """For a person; the problems are told elsewhere."""
        yield from (f"job {job_id} cancelled" for job_id in self.job_ids)
        if self.process is not None:
            yield f"process {self.process} asked to save and stop"
        elif not self.job_ids and not self.problems:
            yield f"{self.run_dir.path}: nothing of it waits or runs"


def cancel_run(
    run_dir: RunDir, *, queue: Sequence[client.QueuedJob] | None, run_command: client.RunCommand = client.run_command
) -> Cancelled:
    """Cancel the run's jobs in `queue`, and ask its process on this machine to save and stop.

    `queue` is None where Slurm could not be asked: then a run that may have jobs there is a problem, and no success.
    """
    attempts = read_attempts(run_dir.attempts)
    process = local_process(attempts)
    if process is not None:
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(process, signal.SIGTERM)
    problems = _elsewhere(run_dir, attempts[-1] if attempts else {})
    if queue is None:
        return Cancelled(run_dir, (), process, (*problems, *_unasked(run_dir)))
    job_ids = tuple(job.job_id for job in jobs_of(run_dir, queue))
    if not job_ids:
        return Cancelled(run_dir, (), process, problems)
    record_cancel(run_dir, job_ids=job_ids)  # first: a job that ends at once must find it there
    try:
        client.cancel(job_ids, run_command=run_command)
    except NoAnswerError as error:
        record_not_cancelled(run_dir, job_ids=job_ids)
        return Cancelled(run_dir, (), process, (*problems, f"{run_dir.path}: {error.problems[0]}"))
    return Cancelled(run_dir, job_ids, process, problems)


def _unasked(run_dir: RunDir) -> Iterator[str]:
    """A line where jobs of the run may wait or run, unseen from here."""
    history = read_history(run_dir)
    known, was_submitted = open_jobs(history), bool(history) or run_dir.job_script.exists()
    if known or (was_submitted and not run_dir.finished.exists()):
        which = f"job {', '.join(known)}" if known else "a job of it"
        yield f"{run_dir.path}: Slurm cannot be asked from here: {which} may wait or run and was not cancelled"


def _elsewhere(run_dir: RunDir, last: dict[str, Any]) -> tuple[str, ...]:
    """A line where the last attempt began on another machine, outside Slurm, and has not said that it ended."""
    host = last.get("host")
    if last.get("event") != "start" or last.get("job_id") is not None or host == socket.gethostname():
        return ()
    return (f"{run_dir.path}: process {last.get('pid')} on {host} may train it and was not reached; cancel it there",)
