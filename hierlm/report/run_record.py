"""What a report knows of one run, wherever it was read from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hierlm import yaml12
from hierlm.errors import UserError
from hierlm.metric_names import EVAL, KIND, TRAIN
from hierlm.report.summary import RunSummary, read_summary
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_attempts, read_records
from hierlm.tracking.params import flatten

Record = Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One run: its flat config, its records in order, its summary if it got that far."""

    name: str
    source: str  # run directory, or the tracker's address and run id
    config: Mapping[str, str]  # flat, as `tracking.params.flatten` writes it
    records: Sequence[Record]
    attempts: Sequence[Record]  # starts and ends; empty when read from a tracker
    summary: RunSummary | None
    problems: tuple[str, ...] = ()  # of its files, one line each: what could not be read and is left out

    @property
    def train(self) -> list[Record]:
        """Logged steps."""
        return [record for record in self.records if record.get(KIND) == TRAIN]

    def evaluations(self, split: str) -> list[Record]:
        return [record for record in self.records if record.get(KIND) == EVAL and record.get("split") == split]

    @property
    def experiment(self) -> str:
        return self.config.get("tracking.experiment", "")


def load_run(path: Path) -> RunRecord:
    """Read a run directory; UserError when it is none."""
    run_dir = RunDir(path)
    if not run_dir.config.is_file():
        raise UserError(f"{path}: not a run directory (it has no {run_dir.config.name}); RUN is a path like runs/NAME")
    summary, problems = _summary(run_dir.summary)
    return RunRecord(
        name=run_dir.name,
        source=str(path),
        config=_config(run_dir.config),
        records=read_records(run_dir.metrics),
        attempts=read_attempts(run_dir.attempts),
        summary=summary,
        problems=problems,
    )


def find_runs(run_root: Path, *, report: Callable[[str], None] = lambda line: None) -> dict[Path, str]:
    """Every run directory directly below `run_root`, with the experiment it belongs to.

    `report` hears of those whose config cannot be read: they are left out.
    """
    found = {}
    for path in sorted(run_root.glob("*/" + RunDir(run_root).config.name)):
        try:
            found[path.parent] = _config(path).get("tracking.experiment", "")
        except UserError as error:
            report(f"{error}; left out")
    return found


def _summary(path: Path) -> tuple[RunSummary | None, tuple[str, ...]]:
    try:
        return read_summary(path), ()
    except UserError as error:
        return None, error.problems


def flat_config(text: str) -> dict[str, str]:
    """The flat form of a config.yaml's text; ValueError when it is no mapping."""
    values = yaml12.load(text)
    if not isinstance(values, dict):
        raise ValueError("not a mapping of keys to values")
    return flatten(values)


def _config(path: Path) -> dict[str, str]:
    try:
        return flat_config(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        what = (str(error).splitlines() or ["no YAML"])[0]
        raise UserError(
            f"{path}: cannot be read ({what}); `hierlm train` with the config that the run was made from mends it"
        ) from error
