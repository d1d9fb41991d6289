"""end a run's jobs"""

import sys
from typing import Annotated

import typer

from launcher.options import JsonOption

EXAMPLE = "hierlm cancel runs/demo-hourglass"

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="directory or name of a run or sweep", show_default=False)
]


def command(run: RunArgument, as_json: JsonOption = False) -> int:
    """End every job of the run, waiting or running; a running one is given time to save and is not requeued.

    A run started here by `hierlm train` is asked to save and stop. Submitted or trained again it goes on from there.
    Exit code 1 when something of it may go on, because Slurm did not answer or did not do it.
    """
    from hierlm.exit_codes import FAILED
    from launcher.runs.view import Cluster, find_runs
    from launcher.submit.cancel import cancel_run
    from launcher.verb import print_json

    cluster = Cluster()
    queue = cluster.queue()
    done = [cancel_run(run_dir, queue=queue) for run_dir in find_runs(run)]
    left = [problem for each in done for problem in each.problems]
    for problem in (*cluster.problems, *left):
        print(f"hierlm cancel: {problem}", file=sys.stderr)
    if as_json:
        print_json(done[0].document() if len(done) == 1 else [each.document() for each in done])
    else:
        for line in (line for each in done for line in each.lines()):
            print(line)
    return FAILED if left else 0
