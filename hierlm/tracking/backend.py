"""What the replay of metrics.jsonl asks of a tracking server. Every method may raise anything: it is tried again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

Status = Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]


class Point(NamedTuple):
    """One value of one metric."""

    name: str
    value: float
    step: int
    time_ms: int


class Dataset(NamedTuple):
    """What a run was trained on."""

    name: str
    digest: str
    source: str
    profile: str  # JSON text: counts worth showing


class TrackedRun(NamedTuple):
    """A run as a tracker gives it back."""

    name: str
    source: str
    config: dict[str, str]  # flat
    records: list[dict[str, Any]]
    summary: str | None  # the text of summary.json


class Backend(Protocol):
    """Runs with parameters, points, tags, files and a status."""

    def address(self, run_id: str) -> str:
        """Where people look at the run; empty where there is no page."""

    def find_or_create_run(
        self, *, name: str, tags: Mapping[str, str], parent: str | None, started_ms: int | None
    ) -> str:
        """The id of the one live run that carries all `tags`; made under `parent` when there is none.

        `started_ms` is when it began, in unix time; None: now.
        """

    def statuses_below(self, run_id: str) -> list[Status]:
        """Of the live runs whose parent is this one."""

    def is_live(self, run_id: str) -> bool:
        """Whether the run exists and was not deleted."""

    def params(self, run_id: str) -> dict[str, str]:
        """Parameters as kept, that is, possibly cut."""

    def kept_param(self, value: str) -> str:
        """What `params` gives back for a logged value."""

    def log_params(self, run_id: str, values: Mapping[str, str]) -> None:
        """Parameters cannot be changed later."""

    def log_dataset(self, run_id: str, dataset: Dataset) -> None:
        """The same dataset logged twice is kept once."""

    def log_model(self, run_id: str, *, name: str, params: Mapping[str, str]) -> None:
        """The model a run produced, once."""

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """All or nothing; a point logged twice is kept once. At most `MAX_POINTS` at a time."""

    def last_steps(self, run_id: str) -> dict[str, int]:
        """Stream -> highest step the run has."""

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None: ...

    def log_artifact(self, run_id: str, path: Path) -> None: ...

    def set_status(self, run_id: str, status: Status) -> None: ...


MAX_POINTS = 1000
