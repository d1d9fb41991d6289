"""One run: what it reached, how fast, where its time went; a page with its curves."""

from pathlib import Path
from typing import Annotated

import typer

from launcher.options import JsonOption
from launcher.verb import json_on_stdout

EXAMPLE = "hierlm report runs/demo-hourglass --html hourglass.html"


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="run directory")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="default: report.html in the run directory")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print a run's numbers and write one self-contained page with its curves; works while it is running."""
    with json_on_stdout(as_json) as print_document:
        from hierlm.errors import UserError
        from hierlm.report.run_record import load_run
        from hierlm.report.run_report import document, run_page, text

        record = load_run(run)
        path = html or run / "report.html"
        try:
            path.write_text(run_page(record), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--html: cannot write {path}: {error.strerror}") from error
        if as_json:
            print_document({**document(record), "page": str(path)})
            return
        print(text(record))
        print(f"\npage: {path}")
