"""Where a process prints. Its reader may go (`| head`, a closed terminal), its disk may be full: no reason to end work.

Standard library only: the launcher opens its streams here before it knows which verb it runs.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any


class Outlet:
    """Stands in the place of a text stream that may be lost; in all but that it is the stream itself."""

    def __init__(self, stream: IO[str], *, on_loss: Callable[[OSError], None] | None = None) -> None:
        """`on_loss` hears of the first error, and of no other: writing fails only if `on_loss` does."""
        self._stream, self.on_loss = stream, on_loss
        self.lost: OSError | None = None
        self.is_used = False

    @property
    def buffer(self) -> "_Bytes":
        """What takes bytes, where the stream has one."""
        return _Bytes(self, self._stream.buffer)  # type: ignore[attr-defined]

    def write(self, text: str, /) -> int:
        self.attempt(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Any, /) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def attempt(self, write: Callable[[Any], object], content: Any) -> None:
        """Write, and learn whether the stream is lost."""
        self.is_used = True
        try:
            write(content)
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if self.lost is None:
            self.lost = error
            if self.on_loss is not None:
                self.on_loss(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Bytes:
    """The part of an outlet below the letters."""

    def __init__(self, outlet: Outlet, stream: Any) -> None:
        self._outlet, self._stream = outlet, stream

    def write(self, block: Any, /) -> int:
        self._outlet.attempt(self._stream.write, block)
        return len(block)

    def flush(self) -> None:
        self._outlet.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tell(line: str, *, stream: Any = None) -> None:
    """Print a line, on stderr by default, at once; where that cannot be it is left out."""
    target = sys.stderr if stream is None else stream
    with suppress(OSError):
        print(line, file=target, flush=True)


def settle(stream: Any) -> OSError | None:
    """Bring out what a stream still holds. What it cannot bring out is dropped: it is told once, by what is returned,
    and not again by the interpreter when it ends."""
    try:
        stream.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
        return error
    return None


def stand_in_for_closed() -> None:
    """Put the null device where stdin, stdout or stderr is closed: a file opened later would take its number, and be
    written into by whatever prints."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
