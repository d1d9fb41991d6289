"""one run: what it reached, how fast, where its time went; a page with its curves"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.options import JsonOption, PluginOption
from launcher.verb import json_on_stdout

if TYPE_CHECKING:
    from hierlm.report.run_record import RunRecord
    from hierlm.report.stage_balance import StageBalance

EXAMPLE = "hierlm report runs/demo-hourglass --html hourglass.html"


def command(
    run: Annotated[str, typer.Argument(metavar="RUN", help="directory or name of a run")],
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="default: report.html in the run directory")] = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a run's numbers and write one self-contained page with its curves; works while it is running."""
    with json_on_stdout(as_json) as print_document:
        from hierlm import outlets
        from hierlm.errors import UserError
        from hierlm.report.run_record import load_run
        from hierlm.report.run_report import document, run_page, text
        from launcher.runs.view import find_run

        found = find_run(run).path
        record = load_run(found)
        for problem in record.problems:
            outlets.tell(f"hierlm report: {problem}")
        balance, path = _stage_balance(record), html or found / "report.html"
        try:
            path.write_text(run_page(record, balance=balance), encoding="utf-8")
        except OSError as error:
            raise UserError(f"--html: cannot write {path}: {error.strerror}") from error
        if as_json:
            print_document({**document(record, balance=balance), "page": str(path)})
            return
        print(text(record, balance=balance))
        print(f"\npage: {path}")


def _stage_balance(record: "RunRecord") -> "StageBalance | None":
    """Predicted from the config; None where one stage holds all layers, found without torch."""
    if record.config.get("parallel.pipeline_parallel_degree", "1") == "1":
        return None
    from hierlm.config.load import load_config
    from hierlm.costs.cut import cut_costs, stage_cut
    from hierlm.report.stage_balance import stage_balance
    from hierlm.run_dir import RunDir

    config = load_config(RunDir(Path(record.source)).config)
    return stage_balance(cut_costs(config), stage_cut(config))
