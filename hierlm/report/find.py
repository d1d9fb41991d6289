"""The runs of an experiment: from run directories, or from the tracker when there are none."""

import difflib
from collections.abc import Callable
from pathlib import Path

from hierlm.errors import UserError
from hierlm.report.run_record import RunRecord, find_runs, load_run
from hierlm.report.summary import RunSummary
from hierlm.tracking.backend import TrackedRun
from hierlm.tracking.trackers.mlflow import absolute_uri


def runs_of(
    experiment: str, *, run_root: Path, uri: str | None = None, report: Callable[[str], None] = lambda line: None
) -> list[RunRecord]:
    """At least one run; UserError naming the nearest experiment there is. A given `uri` skips run directories.

    `report` hears in one line of what cannot be read and is left out.
    """
    here = {} if uri else find_runs(run_root, report=report)
    paths = [path for path, name in here.items() if name == experiment]
    if paths:
        runs = [load_run(path) for path in paths]
        for problem in (problem for run in runs for problem in run.problems):
            report(problem)
        return runs
    known = set(here.values())
    uri = uri or _database_of(run_root)
    if uri is not None:
        from hierlm.tracking.mlflow import experiments, runs_at_tracker

        found = runs_at_tracker(absolute_uri(uri), experiment=experiment)
        if found:
            return [_from_tracker(run) for run in found]
        known |= set(experiments(absolute_uri(uri)))
    raise UserError(
        _unknown(experiment, sorted(known - {""}), where=f"{run_root}{'' if uri is None else f' or {uri}'}")
    )


def _from_tracker(run: TrackedRun) -> RunRecord:
    summary = None if run.summary is None else RunSummary.model_validate_json(run.summary)
    return RunRecord(run.name, run.source, config=run.config, records=run.records, attempts=(), summary=summary)


def _database_of(run_root: Path) -> str | None:
    database = run_root / "mlflow.db"
    return f"sqlite:///{database}" if database.is_file() else None


def _unknown(experiment: str, known: list[str], *, where: str) -> str:
    problem = f"no experiment {experiment!r} in {where}"
    if not known:
        return f"{problem}; there are none yet: `hierlm train CONFIG` makes runs, --run-root names another place"
    near = difflib.get_close_matches(experiment, known, n=1, cutoff=0.0)
    return f"{problem}; nearest: {near[0]!r}, there are: {', '.join(known)}"
