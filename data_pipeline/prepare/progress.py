"""How far a preparation is: a live bar on a terminal, one plain line now and then in a log."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

LINE_EVERY_SECONDS = 5.0


@dataclass
class Counts:
    """What a stage has done so far."""

    source_bytes: int = 0
    tokens: int = 0
    documents: int = 0


class Progress(Protocol):
    """Receives stages in turn; `total_bytes` None when it is not known."""

    def begin(self, stage: str, *, total_bytes: int | None = None) -> None: ...
    def advance(self, *, source_bytes: int = 0, tokens: int = 0, documents: int = 0) -> None: ...
    def say(self, line: str) -> None: ...
    def close(self) -> None: ...


class Lines:
    """One greppable line at the start and end of a stage and every few seconds between."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._stage = ""

    def begin(self, stage: str, *, total_bytes: int | None = None) -> None:
        self._end_stage()
        self._stage, self._total, self._counts = stage, total_bytes, Counts()
        self._began = self._said = self._clock()
        self.say(f"{stage}{'' if total_bytes is None else f' {megabytes(total_bytes)}'} ...")

    def advance(self, *, source_bytes: int = 0, tokens: int = 0, documents: int = 0) -> None:
        self._counts.source_bytes += source_bytes
        self._counts.tokens += tokens
        self._counts.documents += documents
        if self._clock() - self._said >= LINE_EVERY_SECONDS:
            self._said = self._clock()
            self.say(self._line())

    def say(self, line: str) -> None:
        print(f"data: {line}", file=self._stream, flush=True)

    def close(self) -> None:
        self._end_stage()

    def _end_stage(self) -> None:
        if self._stage:
            self.say(self._line())
        self._stage = ""

    def _line(self) -> str:
        elapsed = max(self._clock() - self._began, 1e-9)
        done, total = self._counts.source_bytes, self._total
        of = f"/{megabytes(total)} ({100 * done / total:.0f}%)" if total else ""
        eta = f" eta={clock_time((total - done) * elapsed / done)}" if total and done else ""
        counts = f"documents={self._counts.documents} tokens={self._counts.tokens}"
        return f"{self._stage} {megabytes(done)}{of} {counts} {done / 1e6 / elapsed:.1f} MB/s{eta}"


class Bars:
    """A live bar for each stage; for terminals only."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, DownloadColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        counts = TextColumn("{task.fields[tokens]:,} tokens  {task.fields[documents]:,} documents")
        self._bars = RichProgress(*columns, counts, TimeRemainingColumn(), console=console)
        self._bars.start()
        self._task: Any = None
        self._counts = Counts()

    def begin(self, stage: str, *, total_bytes: int | None = None) -> None:
        self._finish_task()
        self._counts = Counts()
        self._task = self._bars.add_task(stage, total=total_bytes, tokens=0, documents=0)

    def advance(self, *, source_bytes: int = 0, tokens: int = 0, documents: int = 0) -> None:
        self._counts.source_bytes += source_bytes
        self._counts.tokens += tokens
        self._counts.documents += documents
        self._bars.update(
            self._task, advance=source_bytes, tokens=self._counts.tokens, documents=self._counts.documents
        )

    def say(self, line: str) -> None:
        self._bars.console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        self._finish_task()
        self._bars.stop()

    def _finish_task(self) -> None:
        if self._task is not None:
            done = self._counts.source_bytes or 1
            self._bars.update(self._task, total=done, completed=done)


def for_stream(stream: TextIO | None = None) -> Progress:
    """Bars when `stream` (default stderr, so that stdout stays for results) is a terminal, else lines."""
    stream = stream or sys.stderr
    if not stream.isatty():
        return Lines(stream)
    from rich.console import Console

    return Bars(Console(file=stream))


def megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
