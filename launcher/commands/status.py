"""what runs are doing: step, loss, speed, why one waits"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.options import JsonOption

if TYPE_CHECKING:
    from launcher.runs.view import RunStatus

EXAMPLE = "hierlm status --watch 5"

RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="a run or sweep, by directory or name; default: all")
]
RootOption = Annotated[Path, typer.Option("--run-root", help="where to look for runs")]
WatchOption = Annotated[float | None, typer.Option("--watch", metavar="SECONDS", min=0.5, help="refresh until Ctrl-C")]


def command(
    run: RunArgument = None,
    *,
    run_root: RootOption = Path("runs"),
    watch: WatchOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show each run's state, phase, step, loss, speed, time left, attempts, and why it waits or why it ended.

    Everything comes from the run directories and Slurm's queue; without a Slurm it works too. Exit code 1 when
    Slurm does not answer and a state hangs on it.
    """
    from hierlm.exit_codes import FAILED
    from launcher.runs.view import Cluster, all_runs, find_runs, statuses
    from launcher.verb import print_json

    cluster = Cluster()

    found: list[RunStatus] = []

    def look() -> "list[RunStatus]":
        found[:] = statuses(find_runs(run) if run else all_runs(run_root), cluster)
        return found

    if as_json:
        documents = [status.document() for status in look()]
        print_json(documents[0] if run and len(documents) == 1 else documents)
    elif watch is not None and sys.stdout.isatty():
        _watch(look, every=watch)
    else:
        _show(look, every=watch, nothing=f"no runs under {run_root}/")
    for problem in dict.fromkeys(cluster.problems):
        print(f"hierlm status: {problem}", file=sys.stderr)
    return FAILED if cluster.problems and any(status.state == "unknown" for status in found) else 0


def _show(look: "Callable[[], list[RunStatus]]", *, every: float | None, nothing: str) -> None:
    from launcher.runs.table import line, table

    while True:
        found = look()
        if not found:
            print(nothing)
        elif sys.stdout.isatty():
            from rich.console import Console

            Console(highlight=False).print(table(found))
        else:
            print(*map(line, found), sep="\n", flush=True)
        if every is None:
            return
        time.sleep(every)


def _watch(look: "Callable[[], list[RunStatus]]", *, every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from launcher.runs.table import table

    with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        while True:
            live.update(table(look(), caption=f"every {every:g} s, Ctrl-C ends"), refresh=True)
            time.sleep(every)
