"""A JobSpec on the nodes of the allocation this process is in (salloc, or a job script of one's own): one srun step."""

import os
import signal
import subprocess
from threading import Thread
from types import FrameType
from typing import IO

from hierlm.errors import UserError
from hierlm.exit_codes import INTERRUPTED, STOPPED
from launcher.job import JobSpec
from launcher.local import FORWARDED_AS
from launcher.placement import problem_of_node

SECONDS_FOR_THE_OTHERS = 60
"""After the first process has ended."""
SECONDS_FOR_LAST_LINES = 10
"""What srun has started may hold its ends of the pipes."""


def spans_nodes() -> bool:
    """Whether this is an allocation of several nodes, and not yet a step of it: one node needs no srun."""
    in_step = "SLURM_STEP_ID" in os.environ and os.environ.get("SLURM_STEP_ID") not in ("4294967290", "interactive")
    return "SLURM_JOB_ID" in os.environ and not in_step and int(os.environ.get("SLURM_JOB_NUM_NODES", "1")) > 1


def run(job: JobSpec) -> int:
    """Run all processes of the job on the allocation's nodes; the exit code is the highest of theirs.

    The first Ctrl-C, or SIGTERM, saves and stops (85); the second Ctrl-C kills. UserError when the processes cannot be
    spread evenly.
    """
    step = subprocess.Popen(
        _command(job), cwd=job.working_dir, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    relays = [_relay(source, to=number) for source, number in ((step.stdout, 1), (step.stderr, 2)) if source]
    interrupts = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        step.send_signal(signal.SIGKILL if interrupts > 1 else signal.SIGUSR1)  # srun passes the latter on to all tasks

    previous = {number: signal.signal(number, on_signal) for number in FORWARDED_AS}
    try:
        code = step.wait()
        for relay in relays:
            relay.join(timeout=SECONDS_FOR_LAST_LINES)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if interrupts > 1:
        return INTERRUPTED
    return STOPPED if code == 128 + signal.SIGUSR1 else code  # the request came before the processes could listen


def _relay(source: IO[bytes], *, to: int) -> Thread:
    """Pass lines on, and go on reading when nobody takes them: srun kills all tasks when its own stdout breaks."""

    def copy() -> None:
        hears = True
        while block := os.read(source.fileno(), 1 << 16):
            while hears and block:
                try:
                    block = block[os.write(to, block) :]
                except OSError:
                    hears = False

    relay = Thread(target=copy, name=f"relay-{to}", daemon=True)
    relay.start()
    return relay


def _command(job: JobSpec) -> list[str]:
    num_nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    if job.num_tasks % num_nodes:
        raise UserError(
            f"parallel: {job.num_tasks} processes do not spread evenly over the {num_nodes} nodes of this allocation; "
            "choose degrees whose product is a multiple of that, or another allocation"
        )
    problem = problem_of_node(job.layout, tasks_per_node=job.num_tasks // num_nodes, num_nodes=num_nodes)
    if problem:
        raise UserError(problem)
    shape = [f"--nodes={num_nodes}", f"--ntasks={job.num_tasks}", f"--ntasks-per-node={job.num_tasks // num_nodes}"]
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    options = [*shape, "--kill-on-bad-exit=0", f"--wait={SECONDS_FOR_THE_OTHERS}"]
    return ["srun", *options, *([f"--cpus-per-task={cpus}"] if cpus else []), *job.command]
