"""What every verb has in common: errors become exit codes and single lines, --json owns stdout."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout

from data_pipeline.errors import DataError
from hierlm import strict_json
from hierlm.errors import UserError
from hierlm.exit_codes import FAILED, INTERRUPTED, WRONG_INPUT

JsonPrinter = Callable[[object], None]


def exit_code_of(work: Callable[[], object], *, verb: str) -> int:
    """Run `work` and translate how it ends. Our own bugs keep their traceback and end as 1, as Python has it."""
    try:
        result = work()
    except KeyboardInterrupt:
        result = INTERRUPTED
    except (UserError, DataError) as error:
        for problem in error.problems:
            print(f"{verb}: {' '.join(problem.splitlines())}", file=sys.stderr)
        return WRONG_INPUT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `| head` has seen enough; nothing more may be flushed there
        return FAILED
    except Exception as error:
        if not is_usage_error(error):
            raise
        print(f"{verb}: {_usage_message(error)}", file=sys.stderr)
        return WRONG_INPUT
    if result == INTERRUPTED:
        print(f"{verb}: interrupted", file=sys.stderr)
    return result if isinstance(result, int) else 0


@contextmanager
def json_on_stdout(enabled: bool) -> Iterator[JsonPrinter]:
    """While inside, with --json, everything printed (by libraries and child processes too) goes to stderr.

    The function it gives prints the one document on the real stdout.
    """
    if not enabled:
        yield print_json
        return
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):  # where sys.stdout is not file descriptor 1
            yield lambda document: _write_json(document, descriptor=stdout)
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def print_json(document: object) -> None:
    """The whole answer of a verb as one JSON document on stdout."""
    print(strict_json.dumps(document, indent=2, default=str))


def is_usage_error(error: Exception) -> bool:
    """Whether the command line itself was wrong; typer has click's errors under a private name."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage_message(error: Exception) -> str:
    message = str(error.format_message())  # type: ignore[attr-defined]
    return " ".join(message.splitlines()) + " (see --help)"


def _write_json(document: object, *, descriptor: int) -> None:
    with os.fdopen(os.dup(descriptor), "w") as stdout:
        stdout.write(strict_json.dumps(document, indent=2, default=str) + "\n")
