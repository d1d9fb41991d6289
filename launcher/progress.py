"""Progress of a verb that takes a while: a bar on a terminal, a plain line now and then in a log; never on stdout."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY_SECONDS = 10.0


@contextmanager
def stderr_progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Gives `report(done, total)`."""
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(what: str) -> Callable[[int, int], None]:
    last = time.monotonic()
    print(what, file=sys.stderr, flush=True)

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _LINE_EVERY_SECONDS:
            last = time.monotonic()
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    return report
