"""What a report knows of one run, wherever it was read from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hierlm.errors import UserError
from hierlm.metric_names import EVAL, KIND, TRAIN
from hierlm.report.summary import RunSummary, read_summary
from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
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
    return RunRecord(
        name=run_dir.name,
        source=str(path),
        config=_config(run_dir.config),
        records=read_records(run_dir.metrics),
        attempts=read_records(run_dir.attempts),
        summary=read_summary(run_dir.summary),
    )


def find_runs(run_root: Path) -> dict[Path, str]:
    """Every run directory directly below `run_root`, with the experiment it belongs to."""
    configs = sorted(run_root.glob("*/" + RunDir(run_root).config.name))
    return {path.parent: _config(path).get("tracking.experiment", "") for path in configs}


def flat_config(text: str) -> dict[str, str]:
    """The flat form of a config.yaml's text; ValueError when it is no mapping."""
    values = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(values, dict):
        raise ValueError("not a mapping of keys to values")
    return flatten(values)


def _config(path: Path) -> dict[str, str]:
    try:
        return flat_config(path.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: unreadable config ({str(error).splitlines()[0]}); restore or remove it") from error
