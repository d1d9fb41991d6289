"""A JobSpec on this machine: one process per rank, signals passed on, nobody left behind."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from uuid import uuid4

from hierlm import outlets
from hierlm.exit_codes import FAILED, INTERRUPTED, STOPPED, TAKEN_OVER, WRONG_INPUT
from hierlm.meeting import rank_environment
from launcher.job import JobSpec

POLL_SECONDS = 0.05
PR_SET_PDEATHSIG = 1  # linux/prctl.h

FORWARDED_AS = {
    signal.SIGTERM: signal.SIGTERM,
    signal.SIGUSR1: signal.SIGUSR1,
    signal.SIGUSR2: signal.SIGUSR2,
    signal.SIGINT: signal.SIGINT,  # Ctrl-C: save and stop. A second one kills
    signal.SIGHUP: signal.SIGTERM,  # the terminal went away
}


def run(job: JobSpec, *, failure_grace_seconds: float = 10, ending_grace_seconds: float = 300) -> int:
    """Run all processes of the job to their end.

    0: all finished · 85: stopped on request, can be resumed · 2: wrong input · 86: another attempt has taken the run
    over · 130: Ctrl-C twice · 1: anything else.
    When one process fails the others are given `failure_grace_seconds`, then killed; once the first one has ended
    well the others are given `ending_grace_seconds`.
    """
    processes = _Processes(job)
    previous = {number: signal.signal(number, processes.on_signal) for number in FORWARDED_AS}
    try:
        processes.start()
        processes.wait(failure_grace_seconds=failure_grace_seconds, ending_grace_seconds=ending_grace_seconds)
    finally:
        processes.kill()
        for number, handler in previous.items():
            signal.signal(number, handler)
    for line in processes.failures():
        outlets.tell(f"hierlm: {line}")
    return processes.exit_code()


def overall_exit_code(codes: Sequence[int], *, killed: Sequence[bool], forwarded: Sequence[int]) -> int:
    """The job's exit code from those of its processes (negative: ended by that signal).

    A process that a forwarded stop signal ended before it could listen has stopped on request too.
    """
    own = [code for code, was_killed in zip(codes, killed, strict=True) if not was_killed]
    if WRONG_INPUT in own:
        return WRONG_INPUT
    if TAKEN_OVER in own:
        return TAKEN_OVER
    if not any(codes):
        return 0
    stopped = [code == STOPPED or -code in forwarded for code in own]
    return STOPPED if stopped and all(stopped) and (forwarded or not any(killed)) else FAILED


class _Processes:
    """The ranks of one job and what has been asked of them."""

    def __init__(self, job: JobSpec) -> None:
        self.job = job
        self._processes: list[subprocess.Popen[bytes]] = []
        self._killed: list[bool] = [False] * job.num_tasks
        self._forwarded: list[int] = []
        self._num_interrupts = 0

    def start(self) -> None:
        meeting, die_with_launcher = self.job.run_dir.meeting_file(uuid4().hex), _die_with_parent()
        for rank in range(self.job.num_tasks):
            self._processes.append(
                subprocess.Popen(
                    self.job.command,
                    cwd=self.job.working_dir,
                    env={
                        **self.job.environment,
                        **rank_environment(rank, num_ranks=self.job.num_tasks, meeting=meeting),
                    },
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # the terminal's Ctrl-C reaches the ranks through us only
                    preexec_fn=die_with_launcher,  # noqa: PLW1509 - this process has one thread
                )
            )
        for number in self._forwarded:  # a signal that came while the first ones were being started
            self._send(number)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self._num_interrupts += number == signal.SIGINT
        if self._num_interrupts > 1:  # `wait` sees it: reaping processes here could deadlock with it
            return
        if number == signal.SIGINT:
            with suppress(OSError):  # the terminal may have gone, and an error here would kill the processes
                os.write(2, b"\nhierlm: saving a checkpoint and stopping; Ctrl-C again kills\n")
        target = FORWARDED_AS[signal.Signals(number)]
        self._forwarded.append(target)
        self._send(target)

    def wait(self, *, failure_grace_seconds: float, ending_grace_seconds: float) -> None:
        first_end: float | None = None
        first_failure: float | None = None
        while None in (codes := [process.poll() for process in self._processes]):
            now = time.monotonic()
            ended = [code for code in codes if code is not None]
            first_end = first_end or (now if ended else None)
            first_failure = first_failure or (now if any(code not in (0, STOPPED) for code in ended) else None)
            too_late = first_end is not None and now - first_end > ending_grace_seconds
            too_late |= first_failure is not None and now - first_failure > failure_grace_seconds
            if too_late or self._num_interrupts > 1:
                self.kill()
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """End every process that is left, with whatever it has started."""
        for rank, process in enumerate(self._processes):
            if process.poll() is None:
                self._killed[rank] = True
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def failures(self) -> list[str]:
        """One line per process that ended badly by itself."""
        lines = []
        for rank, process in enumerate(self._processes):
            code = process.returncode
            said = (0, STOPPED, WRONG_INPUT, TAKEN_OVER)
            if not self._killed[rank] and code not in said and -code not in self._forwarded:
                end = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"
                hint = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
                log = self.job.run_dir.rank_log(rank)
                lines.append(f"process {rank} of {self.job.num_tasks} {end}{hint}; its log: {log}")
        return lines

    def exit_code(self) -> int:
        if self._num_interrupts > 1:
            return INTERRUPTED
        codes = [process.returncode for process in self._processes]
        return overall_exit_code(codes, killed=self._killed, forwarded=self._forwarded)

    def _send(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)


def _die_with_parent() -> Callable[[], None]:
    """To be run in a child: the kernel kills it when this process ends in whatever way."""
    libc, launcher = ctypes.CDLL(None), os.getpid()

    def in_child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != launcher:  # it ended before the line above
            os._exit(1)

    return in_child
