"""A tracker in memory that can be made to fail, and run directories with records."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import pytest

from hierlm.lease import UNFENCED, Fence
from hierlm.run_dir import RunDir
from hierlm.tracking.backend import MAX_POINTS, Dataset, Point, Status
from hierlm.tracking.identity import RunIdentity
from hierlm.tracking.jsonl import MetricsFile
from hierlm.tracking.replay import Replay
from hierlm.tracking.state import run_uuid
from tests.tracking.servers import MlflowServer

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # tests that import MLflow themselves send nothing anywhere


class MemoryRun:
    """What a tracker keeps of one run; points are kept in order of arrival, equal ones once."""

    def __init__(self, *, name: str, tags: Mapping[str, str], parent: str | None) -> None:
        self.name, self.parent = name, parent
        self.tags: dict[str, str] = dict(tags)
        self.params: dict[str, str] = {}
        self.points: list[Point] = []
        self.files: list[str] = []
        self.datasets: list[Dataset] = []
        self.models: list[str] = []
        self.status: Status = "RUNNING"
        self.started_ms: int | None = None

    def steps(self, name: str) -> list[int]:
        return [point.step for point in self.points if point.name == name]


class MemoryBackend:
    """`fail_at` makes the Nth call from now raise; `lose_answers` does the work and raises then."""

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}
        self.is_down = False
        self.fail_after_calls: int | None = None
        self.lose_answers = False
        self.artifacts_fail = False
        self.has_pages = False
        self._ids = count(1)

    def address(self, run_id: str) -> str:
        return f"memory://{run_id}" if self.has_pages else ""

    def find_or_create_run(
        self, *, name: str, tags: Mapping[str, str], parent: str | None, started_ms: int | None
    ) -> str:
        self._call()
        for run_id, run in self.runs.items():
            if tags.items() <= run.tags.items():
                return run_id
        run_id = f"run{next(self._ids)}"
        self.runs[run_id] = MemoryRun(name=name, tags=tags, parent=parent)
        self.runs[run_id].started_ms = started_ms
        self._answer()
        return run_id

    def statuses_below(self, run_id: str) -> list[Status]:
        self._call()
        return [run.status for run in self.runs.values() if run.parent == run_id]

    def is_live(self, run_id: str) -> bool:
        self._call()
        return run_id in self.runs

    def params(self, run_id: str) -> dict[str, str]:
        self._call()
        return dict(self.runs[run_id].params)

    def kept_param(self, value: str) -> str:
        return value[:20]

    def log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        self._call()
        kept = self.runs[run_id].params
        for key, value in values.items():
            assert kept.setdefault(key, self.kept_param(value)) == self.kept_param(value), f"{key} was changed"

    def log_dataset(self, run_id: str, dataset: Dataset) -> None:
        self._call()
        if dataset not in self.runs[run_id].datasets:
            self.runs[run_id].datasets.append(dataset)

    def log_model(self, run_id: str, *, name: str, params: Mapping[str, str]) -> None:
        self._call()
        if name not in self.runs[run_id].models:
            self.runs[run_id].models.append(name)

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        self._call()
        assert len(points) <= MAX_POINTS
        kept = self.runs[run_id].points
        kept += [point for point in points if point not in kept]
        self._answer()

    def last_steps(self, run_id: str) -> dict[str, int]:
        self._call()
        points = self.runs[run_id].points
        streams = {point.name.rpartition("/")[0] for point in points}
        return {s: max(point.step for point in points if point.name.rpartition("/")[0] == s) for s in streams}

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._call()
        self.runs[run_id].tags |= tags

    def log_artifact(self, run_id: str, path: Path) -> None:
        self._call()
        if self.artifacts_fail:
            raise PermissionError("artifact store out of reach")
        self.runs[run_id].files.append(path.name)

    def set_status(self, run_id: str, status: Status) -> None:
        self._call()
        self.runs[run_id].status = status

    def only(self, **tags: str) -> MemoryRun:
        """The one run whose `hierlm.<key>` tags are these."""
        wanted = {f"hierlm.{key}": value for key, value in tags.items()}
        found = [run for run in self.runs.values() if wanted.items() <= run.tags.items()]
        assert len(found) == 1, f"{len(found)} runs with {wanted}"
        return found[0]

    def _call(self) -> None:
        if self.is_down:
            raise ConnectionError("tracker is down")
        if self.fail_after_calls is not None:
            self.fail_after_calls -= 1
            if self.fail_after_calls < 0:
                self.fail_after_calls = None
                raise ConnectionError("tracker went away")

    def _answer(self) -> None:
        if self.lose_answers:
            raise ConnectionError("the answer was lost")


CONFIG = {
    "model.arch": "hourglass",
    "phases.0.name": "short",
    "phases.0.sequence_length": "64",
    "phases.1.name": "long",
    "phases.1.sequence_length": "128",
}


def make_replay(
    run_dir: RunDir, backend: MemoryBackend, *, attempt: int | None = 1, lease: Fence = UNFENCED, **more: object
) -> Replay:
    """A fresh process's view of the run directory."""
    identity = RunIdentity(
        name=run_dir.name,
        uuid=run_uuid(run_dir.identity),
        uri="memory://",
        attempt=attempt,
        **{"params": CONFIG, **more},  # type: ignore[arg-type]
    )
    return Replay(run_dir, identity=identity, connect=lambda: backend, lease=lease)


def write_steps(run_dir: RunDir, first: int, last: int, *, boundary: int = 50) -> None:
    """Training records `first`..`last` in two phases, an evaluation every 10 steps."""
    file = MetricsFile(run_dir.metrics)
    for step in range(first, last + 1):
        phase = "short" if step <= boundary else "long"
        file.write({"kind": "train", "step": step, "phase": phase, "loss": 5.0 / step, "tokens_seen": 64 * step})
        if step % 10 == 0:
            file.write({"kind": "eval", "step": step, "split": "valid", "loss": 6.0 / step})
    file.close()


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend()


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "runs" / "demo")
    made.path.mkdir(parents=True)
    made.config.write_text("name: demo\n")
    return made


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """Started; on sqlite."""
    server = MlflowServer(tmp_path)
    server.start()
    yield server
    server.kill()
