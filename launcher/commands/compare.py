"""runs of one experiment side by side: a table and trade-off plots"""

import difflib
from pathlib import Path
from typing import Annotated

import typer

from launcher.options import JsonOption, PluginOption
from launcher.verb import json_on_stdout

EXAMPLE = "hierlm compare demo --sort memory --html runs/demo-report.html"


def command(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="tracking.experiment of the runs")],
    run_root: Annotated[Path, typer.Option(help="where the run directories are")] = Path("runs"),
    uri: Annotated[str | None, typer.Option(help="read from this MLflow instead of run directories")] = None,
    sort: Annotated[str | None, typer.Option(metavar="COLUMN", help="a title of the table; best first")] = None,
    each: Annotated[bool, typer.Option("--each", help="a row per run, repetitions with other seeds too")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="write one self-contained page")] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the runs of an experiment, best first; seeds become one row, mean ± deviation."""
    with json_on_stdout(as_json) as print_document:
        from hierlm import outlets
        from hierlm.report.compare import as_document, compare
        from hierlm.report.find import runs_of
        from hierlm.report.text import show

        runs = runs_of(
            experiment, run_root=run_root, uri=uri, report=lambda line: outlets.tell(f"hierlm compare: {line}")
        )
        comparison = compare(experiment, runs, sort=None if sort is None else _column(sort), each=each)
        if html is not None:
            _write_page(html, comparison)
        if as_json:
            print_document(as_document(comparison))
            return
        show(comparison)
        if html is not None:
            print(f"\npage: {html}")


def _column(given: str) -> str:
    """A column by its key or title."""
    from hierlm.errors import UserError
    from hierlm.report.columns import all_columns

    names = {name: column.key for column in all_columns() for name in (column.title.lower(), column.key)}
    if given.lower() not in names:
        near = difflib.get_close_matches(given.lower(), names, n=1, cutoff=0.0)[0]
        titles = ", ".join(column.title for column in all_columns())
        raise UserError(f"--sort: given {given!r}, allowed: {titles}, nearest: {near}")
    return names[given.lower()]


def _write_page(path: Path, comparison: object) -> None:
    from hierlm.errors import UserError
    from hierlm.report.compare import Comparison
    from hierlm.report.compare_page import compare_page

    assert isinstance(comparison, Comparison)
    try:
        path.write_text(compare_page(comparison), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--html: cannot write {path}: {error.strerror}") from error
