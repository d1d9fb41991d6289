"""what a run prints"""

import sys
import time
from typing import Annotated

import typer

from launcher.options import JsonOption

EXAMPLE = "hierlm logs runs/demo-hourglass -f"

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="directory or name", show_default=False)]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="go on printing until the run ends")]
LinesOption = Annotated[int, typer.Option("--lines", "-n", min=0, help="how many of the last lines; 0: all of them")]
RankOption = Annotated[int | None, typer.Option("--rank", min=0, help="this process's own log")]

ASK_SLURM_EVERY_SECONDS = 5.0


def command(
    run: RunArgument,
    *,
    follow: FollowOption = False,
    lines: LinesOption = 100,
    rank: RankOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the end of the run's newest job log; of a run started here, the log of its first process."""
    from hierlm.errors import UserError
    from launcher import run_logs
    from launcher.runs.view import find_run
    from launcher.verb import print_json

    run_dir = find_run(run)
    own = None if rank is None else run_dir.rank_log(rank)
    path = own or run_logs.newest_log(run_dir)
    if own is not None and not own.exists():
        raise UserError(f"{own}: no such log; there are: {_ranks(run_dir.logs) or 'none'}")
    text = run_logs.last_lines(path, lines) if path else []
    if as_json:
        print_json({"run": run_dir.name, "file": str(path) if path else None, "lines": text})
        return
    if path is None and not follow:
        print(f"hierlm logs: {run_dir.path} has printed nothing yet", file=sys.stderr)
    print(*text, sep="\n", end="\n" if text else "", flush=True)
    if follow:
        for piece in run_logs.follow(run_dir, is_active=_Activity(run), path=own):
            print(piece, end="", flush=True)


class _Activity:
    """Whether the run can still print; Slurm is asked now and then only."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._asked_at = -ASK_SLURM_EVERY_SECONDS
        self._active, self._is_heard = True, True

    def __call__(self) -> bool:
        from launcher.runs.state import MAY_WRITE
        from launcher.runs.view import Cluster, find_run, statuses

        run_dir = find_run(self._run)
        due = run_dir.finished.exists() or time.monotonic() - self._asked_at >= ASK_SLURM_EVERY_SECONDS
        if due:
            self._asked_at = time.monotonic()
            cluster = Cluster()
            (status,) = statuses([run_dir], cluster)
            self._active = status.state in MAY_WRITE
            if cluster.problems and self._is_heard:
                print(f"hierlm logs: {cluster.problems[0]}; following goes on", file=sys.stderr)
            self._is_heard = not cluster.problems
        return self._active


def _ranks(logs: object) -> str:
    from pathlib import Path

    assert isinstance(logs, Path)
    return ", ".join(str(int(path.stem.removeprefix("rank-"))) for path in sorted(logs.glob("rank-*.log")))
