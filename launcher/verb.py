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


def exit_code_of(work: Callable[[], object], *, verb: str) -> int:
    """Run `work` and translate how it ends. Our own bugs keep their traceback and end as 1, as Python has it.

    Output that could not be brought out is a failure, unless the exit code is the work's own: told in a line if the
    disk is full, quiet if the reader has gone.
    """
    stdout, code = sys.stdout, None
    outlet = outlets.Outlet(stdout, on_loss=_end_work)
    try:
        with redirect_stdout(cast(IO[str], outlet)):
            code = _exit_code(work, verb=verb)
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


def _exit_code(work: Callable[[], object], *, verb: str) -> int | None:
    """None where the work says nothing of how it ended."""
    try:
        result = work()
    except KeyboardInterrupt:
        result = INTERRUPTED
    except (UserError, DataError) as error:
        for problem in error.problems:
            outlets.tell(f"{verb}: {' '.join(problem.splitlines())}")
        return FAILED if isinstance(error, NoAnswerError) else WRONG_INPUT
    except Exception as error:
        if not is_usage_error(error):
            raise
        outlets.tell(f"{verb}: {_usage_message(error)}")
        return WRONG_INPUT
    if result == INTERRUPTED:
        outlets.tell(f"{verb}: interrupted")
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
