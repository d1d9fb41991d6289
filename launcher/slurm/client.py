"""Slurm's commands behind one injected function, so that tests need no Slurm.

Answers are read as delimited text: its columns mean the same in every Slurm since 20.11, the JSON output's do not.
squeue and scontrol are asked first, sacct last: many small clusters keep no accounting.

A command that fails has told nothing. It is never taken for an empty answer: NoAnswerError.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierlm.errors import NoAnswerError, UserError

RunCommand = Callable[[Sequence[str]], str]
"""Runs a command and gives its stdout; UserError with its complaint when it fails or is not there, NoAnswerError when
that is because Slurm does not answer."""

PATIENCE_SECONDS = 60.0

PENDING, COMPLETING, CANCELLED = "PENDING", "COMPLETING", "CANCELLED"
_COLUMNS = "%i|%T|%r|%M|%L|%S|%D|%N|%o"  # the command last: a path may hold the separator
_SILENT = re.compile(r"unable to contact|timed out|connection|not responding|zero bytes|standby|socket", re.IGNORECASE)
"""In the complaint of a program that could not reach its daemon."""
_KNOWS_NOT = re.compile(r"invalid job id|storage is disabled|no such command", re.IGNORECASE)
"""In an answer: the job is forgotten, or there is nobody who remembers."""
_NOTHING = ("", "None", "N/A", "(null)", "INVALID", "NOT_SET", "UNLIMITED")


@dataclass(frozen=True)
class QueuedJob:
    """A job Slurm still has something to do for."""

    job_id: str  # `12`, of an array member `12_3`
    state: str  # PENDING, RUNNING, COMPLETING, ...
    reason: str | None  # why it waits
    elapsed_seconds: int
    seconds_left: int | None  # until its time limit
    starts_at: str | None  # Slurm's guess for a waiting job, its own local time
    nodes: str | None
    command: str  # the script with its arguments

    @property
    def is_waiting(self) -> bool:
        return self.state == PENDING

    @property
    def is_ending(self) -> bool:
        return self.state in (COMPLETING, CANCELLED)


def run_command(command: Sequence[str]) -> str:
    """The real one."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: no such command here; run it on a Slurm login node") from None
    except subprocess.TimeoutExpired:
        raise NoAnswerError(f"{command[0]}: no answer within {PATIENCE_SECONDS:.0f} s") from None
    if done.returncode != 0:
        kind = NoAnswerError if _SILENT.search(done.stderr) else UserError
        raise kind(f"{command[0]}: {_verdict(done.stderr, command[0]) or f'exit code {done.returncode}'}")
    return done.stdout


def is_installed() -> bool:
    """Whether this machine can talk to a Slurm at all."""
    return shutil.which("squeue") is not None


def submit(
    script: Path,
    *,
    options: Sequence[str] = (),
    arguments: Sequence[str] = (),
    run_command: RunCommand = run_command,
) -> str:
    """Put a job script with its arguments into the queue; the job id."""
    try:
        answer = run_command(["sbatch", "--parsable", *options, str(script), *arguments])
    except NoAnswerError as error:
        doubt = "it may have taken the job all the same: look with `hierlm status` before you submit again"
        raise NoAnswerError(f"{error.problems[0]}; {doubt}") from None
    return answer.strip().partition(";")[0]  # `;CLUSTER` follows on a multi-cluster site


def refusal(script: Path, *, options: Sequence[str] = (), run_command: RunCommand = run_command) -> str | None:
    """Why Slurm would not take the job, without submitting it; None when it would."""
    try:
        run_command(["sbatch", "--test-only", *options, str(script)])
    except NoAnswerError:
        raise
    except UserError as error:
        return error.problems[0]
    return None


def queue(*, run_command: RunCommand = run_command) -> list[QueuedJob]:
    """This user's jobs that wait, run or end, one entry for each member of an array.

    NoAnswerError for whatever reason squeue fails: the question is always right.
    """
    try:
        answer = run_command(["squeue", f"--user={os.getuid()}", "--array", "--noheader", f"--format={_COLUMNS}"])
    except UserError as error:
        raise NoAnswerError(error.problems) from None
    return [_queued(line) for line in answer.splitlines() if line.strip()]


def final_state(job_id: str, *, run_command: RunCommand = run_command) -> str | None:
    """COMPLETED, FAILED, CANCELLED, TIMEOUT, ... of a job that has left the queue; None when Slurm has forgotten it.

    NoAnswerError when one that might know does not answer.
    """
    asked = (
        (["scontrol", "--oneliner", "show", "job", job_id], r"(?:^|\s)JobState=(\w+)"),
        (["sacct", "-j", job_id, "--allocations", "--noheader", "--parsable2", "--format=State"], r"^(\w+)"),
    )
    silent: UserError | None = None
    for command, pattern in asked:
        try:
            found = re.search(pattern, run_command(command))
        except UserError as error:
            silent = silent if _KNOWS_NOT.search(str(error)) else error
            continue
        if found:
            return found[1]
    if silent is not None:
        raise NoAnswerError(silent.problems)
    return None


def cancel(job_ids: Iterable[str], *, run_command: RunCommand = run_command) -> None:
    """End jobs for good: waiting ones leave the queue, running ones get SIGTERM and KillWait seconds to save.

    NoAnswerError when one of them is still there and has not been told. One that has ended by itself meanwhile makes
    scancel fail, and is as it should be.
    """
    wanted = list(job_ids)
    try:
        run_command(["scancel", *wanted])
    except UserError as error:
        left = [job.job_id for job in queue(run_command=run_command) if job.job_id in wanted and not job.is_ending]
        if left:
            raise NoAnswerError(f"job {', '.join(left)} could not be cancelled: {error.problems[0]}") from None


def _verdict(stderr: str, program: str) -> str:
    """The last line says what it comes to; those before it how it got there."""
    lines = stderr.strip().splitlines()
    return lines[-1].removeprefix(f"{program}: ").removeprefix("error: ") if lines else ""


def _queued(line: str) -> QueuedJob:
    job_id, state, reason, elapsed, left, start, _, nodes, command = line.split("|", maxsplit=8)
    waits = state == PENDING
    return QueuedJob(
        job_id=job_id,
        state=state,
        reason=_known(reason) if waits else None,
        elapsed_seconds=_seconds(elapsed) or 0,
        seconds_left=_seconds(left),
        starts_at=_known(start) if waits else None,
        nodes=_known(nodes),
        command=command,
    )


def _known(text: str) -> str | None:
    return None if text in _NOTHING else text


def _seconds(text: str) -> int | None:
    """`D-HH:MM:SS`, `HH:MM:SS` or `MM:SS`."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
