"""Command lines of `hierlm` without the seconds that every start of Python spends on imports.

The fork server that the ranks of distributed tests come from has imported torch, DeepSpeed and megatron-core. A command
is a process forked from it, and the ranks of `hierlm train` are forked from that: real processes with a number, a
group, signals and exit codes of their own, whose standard streams are files. What the interpreter itself does at a
start is not in them: tests of that run `tests.conftest.hierlm_path`.
"""

import io
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace
from typing import IO, Any, NoReturn

from hierlm.contract.ranks import fork_server


class Command:
    """One command line that has been started: of `subprocess.Popen` what tests need, with all that it says kept."""

    def __init__(
        self, arguments: Sequence[object], *, cwd: Path, environment: Mapping[str, str], in_one: bool = False
    ) -> None:
        """`in_one`: what it says on stderr goes where stdout goes."""
        self.args = ["hierlm", *map(str, arguments)]
        self._out = TemporaryFile()  # noqa: SIM115 - read when the process has ended
        self._error = self._out if in_one else TemporaryFile()  # noqa: SIM115
        streams = (_Passed(self._out.fileno()), _Passed(self._error.fileno()))
        given = (self.args[1:], os.path.abspath(cwd), dict(environment), streams)
        self._process = fork_server().Process(target=_command, args=given)
        self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    @property
    def returncode(self) -> int | None:
        """Negative: ended by that signal; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """subprocess.TimeoutExpired if it has not ended by then."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has said on stdout and on stderr, when it has ended."""
        self.wait(timeout)
        out, error = _text(self._out), "" if self._error is self._out else _text(self._error)
        return out, error

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Rank:
    """In the place of `subprocess.Popen` in the launcher: the module `hierlm`, forked instead of started."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: int,
        start_new_session: bool,
        preexec_fn: Callable[[], None],
    ) -> None:
        assert tuple(command[:3]) == (sys.executable, "-m", "hierlm") and stdin == subprocess.DEVNULL
        self.returncode: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _fresh(cwd=str(cwd), environment=env, streams=(1, 2))
                if start_new_session:
                    os.setsid()
                preexec_fn()
                _rank(command[3:], cwd=str(cwd))
            finally:
                os._exit(1)

    def poll(self) -> int | None:
        return self._reaped(os.WNOHANG)

    def wait(self) -> int:
        code = self._reaped(0)
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _reaped(self, options: int) -> int | None:
        with _SignalsWait():  # a handler of the launcher's asks the same
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, options)
                if pid == self.pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode


class _SignalsWait:
    """None is handled while inside."""

    def __enter__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


class _Passed:
    """A file descriptor that goes with the process that is being started, and is a number there."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> Any:
        return _received, (DupFd(self._number),)


def _received(passed: Any) -> int:
    return int(passed.detach())


def _command(arguments: list[str], cwd: str, environment: dict[str, str], streams: tuple[int, int]) -> None:
    """In the forked process: what the console script does."""
    from launcher import cli, local

    _fresh(cwd=cwd, environment=environment, streams=streams)
    local.subprocess = SimpleNamespace(Popen=Rank, DEVNULL=subprocess.DEVNULL)  # type: ignore[assignment, attr-defined]
    sys.argv = [str(Path(sys.executable).with_name("hierlm")), *arguments]
    cli.main()


def _rank(arguments: Sequence[str], *, cwd: str) -> NoReturn:
    """In a process forked from a command: `python -m hierlm`."""
    from hierlm import __main__ as module
    from launcher.local import FORWARDED_AS

    for number in FORWARDED_AS:
        signal.signal(number, signal.SIG_DFL)
    sys.argv, sys.path[:0] = [module.__file__, *arguments], [cwd]
    code: object = 1
    try:
        code = module.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _fresh(*, cwd: str, environment: Mapping[str, str], streams: tuple[int, int]) -> None:
    """Folder, environment and standard streams of a process that has been forked, as if it had been started."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream, number)
    is_unbuffered = "PYTHONUNBUFFERED" in environment
    out, error = (os.fdopen(number, "wb", closefd=False) for number in (1, 2))
    sys.stdout = io.TextIOWrapper(out, write_through=is_unbuffered)
    sys.stderr = io.TextIOWrapper(error, errors="backslashreplace", line_buffering=True, write_through=is_unbuffered)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")  # an untrained byte model writes no UTF-8
