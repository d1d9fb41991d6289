"""What every verb has in common: errors become exit codes and single lines, --json owns stdout."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, cast

from data_pipeline.errors import DataError
from hierlm import outlets, strict_json
from hierlm.errors import NoAnswerError, UserError
from hierlm.exit_codes import FAILED, INTERRUPTED, WRONG_INPUT

JsonPrinter = Callable[[object], None]


def exit_code_of(work: Callable[[], object], *, verb: str, as_json: bool = False) -> int:
    """Run `work` and translate how it ends. Our own bugs keep their traceback and end as 1, as Python has it.

    Output that could not be brought out is a failure, unless the exit code is the work's own: told in a line if the
    disk is full, quiet if the reader has gone. With `as_json`, work that ends badly and has printed no document gives
    one that says why, beside the lines on stderr.
    """
    stdout, code, told = sys.stdout, None, _Told(verb, as_json=as_json)
    outlet = outlets.Outlet(stdout, on_loss=_end_work)
    try:
        with redirect_stdout(cast(IO[str], outlet)):
            code = _exit_code(work, told)
            if code and not outlet.is_used:
                told.document(code)
    except (_OutputLostError, BrokenPipeError) as error:
        lost: OSError | None = error
    else:
        lost = outlet.lost
    lost = outlets.settle(stdout) or lost
    if lost is not None and lost.errno != errno.EPIPE:
        outlets.tell(f"{verb}: stdout: {lost.strerror}")
    return (0 if lost is None else FAILED) if code is None else code


class _OutputLostError(OSError):
    """Nobody can read what a verb prints: it need not go on."""


def _end_work(error: OSError) -> None:
    raise _OutputLostError(error.errno, error.strerror)


class _Told:
    """What is said of an end that is none of success: lines for people, one JSON object for a program."""

    def __init__(self, verb: str, *, as_json: bool) -> None:
        self._verb, self._as_json = verb, as_json
        self._problems: list[str] = []

    def line(self, problem: str) -> None:
        self._problems.append(" ".join(problem.splitlines()))
        outlets.tell(f"{self._verb}: {self._problems[-1]}")

    def bug(self, error: Exception) -> None:
        """One of ours: its traceback follows."""
        self._problems.append(f"{type(error).__name__}: {error}")
        self.document(FAILED)

    def document(self, code: int) -> None:
        """`error` is all of it in one text."""
        if self._as_json:
            problems = self._problems or [f"{self._verb} ended with exit code {code}; stderr says why"]
            print_json({"error": "; ".join(problems), "problems": problems, "exit_code": code})


def _exit_code(work: Callable[[], object], told: _Told) -> int | None:
    """None where the work says nothing of how it ended."""
    try:
        result = work()
    except KeyboardInterrupt:
        result = INTERRUPTED
    except (UserError, DataError) as error:
        for problem in error.problems:
            told.line(problem)
        return FAILED if isinstance(error, NoAnswerError) else WRONG_INPUT
    except Exception as error:
        if not is_usage_error(error):
            if not isinstance(error, _OutputLostError | BrokenPipeError):
                told.bug(error)
            raise
        told.line(_usage_message(error))
        return WRONG_INPUT
    if result == INTERRUPTED:
        told.line("interrupted")
    return result if isinstance(result, int) else None


@contextmanager
def json_on_stdout(enabled: bool) -> Iterator[JsonPrinter]:
    """While inside, with --json, everything printed (by libraries and child processes too) goes to stderr.

    The function it gives prints the one document on the real stdout, when all is done.
    """
    if not enabled:
        yield print_json
        return
    documents: list[object] = []
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):  # where sys.stdout is not file descriptor 1
            yield documents.append
    finally:
        outlets.settle(sys.stdout)
        os.dup2(stdout, 1)
        os.close(stdout)
        for document in documents:
            print_json(document)


def print_json(document: object) -> None:
    """The whole answer of a verb as one JSON document on stdout."""
    print(strict_json.dumps(document, indent=2, default=str))


def is_usage_error(error: Exception) -> bool:
    """Whether the command line itself was wrong; typer has click's errors under a private name."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage_message(error: Exception) -> str:
    message = str(error.format_message())  # type: ignore[attr-defined]
    return " ".join(message.splitlines()) + " (see --help)"
