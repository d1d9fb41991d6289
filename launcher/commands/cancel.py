"""end a run's jobs"""

import os
import signal
import sys
from typing import Annotated

import typer

from launcher.options import JsonOption

EXAMPLE = "hierlm cancel runs/demo-hourglass"

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="directory or name", show_default=False)]


def command(run: RunArgument, as_json: JsonOption = False) -> None:
    """End every job of the run, waiting or running; a running one is given time to save and is not requeued.

    A run started here by `hierlm train` is asked to save and stop. Submitted or trained again it goes on from there.
    """
    from hierlm.tracking.jsonl import read_records
    from launcher import slurm
    from launcher.job_history import record_cancel
    from launcher.run_state import local_process
    from launcher.runs import Cluster, find_run, jobs_of
    from launcher.verb import print_json

    run_dir, cluster = find_run(run), Cluster()
    job_ids = [job.job_id for job in jobs_of(run_dir, cluster.queue() or [])]
    process = local_process(read_records(run_dir.attempts))
    if job_ids:
        record_cancel(run_dir, job_ids=job_ids)  # first: a job that ends at once must find it there
        slurm.cancel(job_ids)
    if process is not None:
        os.kill(process, signal.SIGTERM)
    for problem in cluster.problems:
        print(f"hierlm cancel: {problem}", file=sys.stderr)
    if as_json:
        print_json({"run": run_dir.name, "cancelled_jobs": job_ids, "stopped_process": process})
        return
    done = [f"job {job_id} cancelled" for job_id in job_ids]
    done += [f"process {process} asked to save and stop"] if process is not None else []
    print(*(done or [f"{run_dir.path}: nothing of it waits or runs"]), sep="\n")
