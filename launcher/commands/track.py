"""send the tracker what it does not have yet"""

import sys
from typing import Annotated

import typer

from hierlm.exit_codes import FAILED
from launcher.options import JsonOption
from launcher.verb import json_on_stdout

EXAMPLE = "hierlm track sync runs/demo-hourglass"

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Look after the tracker.",
    epilog=f"Example: {EXAMPLE}",
)


@app.callback()
def _group() -> None:
    """Keep `sync` a verb of its own while it is the only one."""


@app.command(epilog=f"Example: {EXAMPLE}")
def sync(
    run: Annotated[str, typer.Argument(metavar="RUN", help="directory or name of a run")],
    uri: Annotated[str | None, typer.Option(help="another tracker than the run's own")] = None,
    as_json: JsonOption = False,
) -> int:
    """Send every record, file and state the tracker misses, in order and once; safe to repeat."""
    with json_on_stdout(as_json) as print_document:
        from dataclasses import asdict

        from pydantic import ValidationError

        from hierlm.errors import UserError
        from hierlm.tracking.replay import BusyError, reason
        from hierlm.tracking.sync import sync as sync_run
        from launcher.runs.view import find_run

        run_dir = find_run(run)
        try:
            done = sync_run(run_dir, uri=uri)
        except UserError:
            raise
        except ValidationError as error:
            problem = error.errors()[0]
            raise UserError(f"tracking.{problem['loc'][0]}: {problem['msg'].removeprefix('Value error, ')}") from error
        except BusyError:
            print(f"hierlm track sync: {run}: a process follows this run and sends by itself", file=sys.stderr)
            if as_json:
                print_document({"run": run_dir.name, "followed": True})
            return 0
        except Exception as error:
            why = reason(error)
            print(f"hierlm track sync: {run}: the tracker did not take it ({why}); try again later", file=sys.stderr)
            if as_json:
                print_document({"error": f"{run}: the tracker did not take it ({why})", "exit_code": FAILED})
            return FAILED
        if done.artifact_problem:
            print(f"hierlm track sync: {run}: files could not be kept ({done.artifact_problem})", file=sys.stderr)
        if as_json:
            print_document(asdict(done))
        else:
            print(f"{done.run}: {done.num_records} records sent to {done.uri}, run {done.mlflow_run_id} {done.status}")
    return 0
