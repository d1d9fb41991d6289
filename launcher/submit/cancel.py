"""End what a run has waiting or running."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from launcher.runs.state import local_process
from launcher.runs.view import jobs_of
from launcher.slurm import client
from launcher.slurm.job_history import record_cancel


@dataclass(frozen=True)
class Cancelled:
    """What was ended: Slurm jobs, and the first process of a run on this machine."""

    run_dir: RunDir
    job_ids: tuple[str, ...]
    process: int | None

    def document(self) -> dict[str, Any]:
        """For --json."""
        return {"run": self.run_dir.name, "cancelled_jobs": list(self.job_ids), "stopped_process": self.process}

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield from (f"job {job_id} cancelled" for job_id in self.job_ids)
        if self.process is not None:
            yield f"process {self.process} asked to save and stop"
        elif not self.job_ids:
            yield f"{self.run_dir.path}: nothing of it waits or runs"


def cancel_run(
    run_dir: RunDir, *, queue: Sequence[client.QueuedJob], run_command: client.RunCommand = client.run_command
) -> Cancelled:
    """Cancel the run's jobs in `queue`, or ask its process on this machine to save and stop."""
    job_ids = tuple(job.job_id for job in jobs_of(run_dir, queue))
    process = local_process(read_records(run_dir.attempts))
    if job_ids:
        record_cancel(run_dir, job_ids=job_ids)  # first: a job that ends at once must find it there
        client.cancel(job_ids, run_command=run_command)
    if process is not None:
        os.kill(process, signal.SIGTERM)
    return Cancelled(run_dir, job_ids, process)
