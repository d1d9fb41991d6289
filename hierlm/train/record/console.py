"""What a person sees: one greppable line per event; a live bar below them on a terminal, none in a log."""

import os
import sys
from contextlib import suppress
from datetime import timedelta
from typing import IO, Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from data_pipeline.masking import masked
from hierlm import outlets
from hierlm.metric_names import SOURCES
from hierlm.report.formats import bits, reported, sources


class Console:
    """Lines of the first rank; what another one says is heard only when it must be."""

    def __init__(
        self, stream: IO[str] | None, *, is_first: bool = True, copy_to: "os.PathLike[str] | None" = None
    ) -> None:
        """Lines are added to the file `copy_to` as well; where `stream` takes none any more, to that file alone."""
        outlet: Any = stream if stream is None or isinstance(stream, outlets.Outlet) else outlets.Outlet(stream)
        self._stream, self._is_first, self._copy_to = outlet, is_first, copy_to
        if outlet is not None:
            outlet.on_loss = self._tell_loss
        is_live = is_first and stream is not None and stream.isatty()
        self._rich = RichConsole(file=outlet, highlight=False, soft_wrap=True) if is_live else None
        self._progress: Progress | None = None
        self._task: Any = None

    def say(self, line: str) -> None:
        """Print one line, at once, on the first rank."""
        if self._is_first:
            self.say_from_any_rank(line)

    def say_from_any_rank(self, line: str) -> None:
        """Print one line whichever rank this is; secrets in it are masked, for it is kept."""
        line = masked(line)
        self._keep(line)
        if self._rich is not None:
            self._rich.print(line, markup=False)
        elif self._stream is not None:
            print(line, file=self._stream, flush=True)

    def _keep(self, line: str) -> None:
        """In the copy; a full disk is no reason to end."""
        if self._copy_to is None:
            return
        with suppress(OSError), open(self._copy_to, "a", encoding="utf-8", errors="backslashreplace") as file:
            print(line, file=file)

    def _tell_loss(self, error: OSError) -> None:
        what = f"stdout takes no more lines ({error.strerror}): nothing is printed there, the run goes on"
        if self._copy_to is None:  # a job's log is its stdout: what is left is the log of this process
            print(what, file=sys.stderr, flush=True)
        self._keep(what)

    def start_bar(self, *, total_steps: int, completed: int) -> None:
        """Show the live bar, on a terminal only."""
        if self._rich is None:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._rich, transient=True)
        self._task = self._progress.add_task("training", total=total_steps, completed=completed)
        self._progress.start()

    def advance_bar(self, *, completed: int, description: str) -> None:
        """Move the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=completed, description=description)

    def close(self) -> None:
        """Take the bar away; the lines stay."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def redirect_output(log_path: "os.PathLike[str]") -> tuple[IO[str], IO[str]]:
    """Send everything this process and its libraries print to a file; returned are the old stdout and stderr.

    Writing fails on none of the four, whatever has become of who reads them or of the disk.
    """
    outlets.stand_in_for_closed()
    out, err = (_outlet(os.dup(number)) for number in (1, 2))
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout, sys.stderr = _outlet(1), _outlet(2)
    return out, err


def _outlet(descriptor: int) -> Any:
    """Line by line. The standard two stay open when the object goes: libraries write to their numbers."""
    is_own = descriptor > 2
    return outlets.Outlet(
        os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=is_own)
    )


def step_line(record: dict[str, Any], *, num_steps: int, eta_seconds: float) -> str:
    """One logged step in one line."""
    parts = [
        f"step {record['step']}/{num_steps}",
        f"phase {record['phase']}",
        f"loss {record['loss']:.4f}",
        *bits(record),
        *reported(record),
        f"grad {record['grad_norm']:.3f}",
        f"lr {record['learning_rate']:.2e}",
        f"{record['tokens_per_second']:,.0f} tok/s",
        f"{record['share_of_peak']:.0%} of {record['peak_kind']} peak",
        f"mem {record['device_memory_bytes'] / 2**20:,.0f} MiB",
        *([f"skipped {record['skipped_steps']} steps"] if record["skipped_steps"] else []),
        f"eta {timedelta(seconds=round(eta_seconds))}",
    ]
    return " | ".join(parts)


def evaluation_line(record: dict[str, Any]) -> str:
    """One evaluation in one line; of several sources their weighted mean, then each."""
    parts = [
        f"eval step {record['step']}",
        record["split"],
        f"loss {record['loss']:.4f}",
        *([f"perplexity {record['perplexity']:.4g}"] if "perplexity" in record else []),
        *bits(record),
        *reported(record),
        *([sources(record)] if SOURCES in record else []),
        f"{record['eval_seconds']:.1f} s",
    ]
    return " | ".join(parts)
