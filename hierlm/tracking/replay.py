"""metrics.jsonl -> a tracking server: every record once and in order, however often either side goes away.

The state file keeps, per run and stream, the highest step the tracker has; a record at or below it is never sent. When
a batch was on its way as the process died, the tracker itself is asked what arrived. A push raises at the first failure
and is simply called again later; the time of a point is its record's, so a repeated batch adds nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hierlm.lease import UNFENCED, Fence
from hierlm.metric_names import KIND, PHASE, STEP, SYSTEM, TIME, Record, metric_values, stream
from hierlm.run_dir import RunDir
from hierlm.tracking.attach import attach, phase_run, set_status
from hierlm.tracking.backend import MAX_POINTS, Backend, Point, Status
from hierlm.tracking.file_lock import FileLock
from hierlm.tracking.identity import RunIdentity
from hierlm.tracking.jsonl import read_new_records
from hierlm.tracking.state import StateFile
from hierlm.tracking.system import system_files


class BusyError(RuntimeError):
    """Another process follows this run directory."""


def reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of an error: `[Errno 111] Connection refused`."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


class Replay:
    """All that is pending for one run directory; `push` sends it."""

    def __init__(
        self, run_dir: RunDir, *, identity: RunIdentity, connect: Callable[[], Backend], lease: Fence = UNFENCED
    ) -> None:
        """`connect` may be slow and may raise; it is called by `push` until it succeeds."""
        self._run_dir, self._identity, self._connect, self._lease = run_dir, identity, connect, lease
        self._file = StateFile(run_dir.tracker_state)
        self._lock = FileLock(run_dir.tracker_state.with_suffix(".lock"))
        self._backend: Backend | None = None
        self._attached = False
        self._offsets: dict[Path, int] = {}
        self._phase: str | None = None
        self._artifacts: list[Path] = list(identity.files)
        self.artifact_problem = ""  # why files are not kept; numbers are sent all the same

    @property
    def run_id(self) -> str:
        """The tracker's; empty before the first push."""
        return self._file.state.run_id

    @property
    def address(self) -> str:
        """Where people look at the run; empty before the first push or where there is no page."""
        return self._backend.address(self.run_id) if self._backend is not None and self.run_id else ""

    def want_status(self, status: Status) -> None:
        """To be told after the last record, by this process or a later one."""
        with self._file.change() as state:
            state.wanted_status = status

    def push(self) -> int:
        """Send everything pending; the number of records sent.

        Raises whatever the backend raises, BusyError, or TakenOverError when this attempt has no say any more.
        """
        self._lease.require_current()
        if not self._lock.acquire(wait=False):
            raise BusyError(f"{self._run_dir.path}: another process follows this run")
        try:
            if not self._attached or self._backend is None:
                self._backend = self._backend or self._connect()
                attach(self._backend, self._file, self._identity)
                self._attached = True
            sent = self._send_new_records(self._backend)
            self._send_artifacts(self._backend)
            self._send_status(self._backend)
        except Exception:
            # look again at what the tracker has, from the first record on
            self._attached, self._offsets, self._phase = False, {}, None
            raise
        return sent

    def close(self) -> None:
        """Let another process follow."""
        self._lock.release()

    def _send_new_records(self, backend: Backend) -> int:
        sent = 0
        for path in (self._run_dir.metrics, *system_files(self._run_dir)):
            records, end = read_new_records(path, offset=self._offsets.get(path, 0))
            for batch in _batches(self._unsent(self._with_phase(records))):
                self._send_batch(backend, batch)
                sent += len(batch)
            self._offsets[path] = end
        return sent

    def _with_phase(self, records: Sequence[Record]) -> Iterator[Record]:
        """An evaluation belongs to the phase of the training step before it; a sample of a node to none."""
        for record in records:
            self._phase = record.get(PHASE) or self._phase
            yield {**record, PHASE: None if record.get(KIND) == SYSTEM else self._phase}

    def _unsent(self, records: Iterator[Record]) -> Iterator[Record]:
        """Those that the run or the child run of their phase (if it is made yet) does not have."""
        for record in records:
            child = [] if record[PHASE] is None else [self._file.state.phase_runs.get(record[PHASE], "")]
            if any(self._is_new(record, run_id=run_id) for run_id in (self.run_id, *child)):
                yield record

    def _is_new(self, record: Record, *, run_id: str) -> bool:
        highest = self._file.state.sent.get(run_id, {}).get(stream(record))
        return highest is None or record[STEP] > highest

    def _send_batch(self, backend: Backend, batch: Sequence[Record]) -> None:
        """To the run, and to the child run of each record's phase."""
        with self._file.change() as state:
            state.sending = True
        self._send_to(backend, self.run_id, batch)
        for phase in dict.fromkeys(record[PHASE] for record in batch if record[PHASE] is not None):
            records = [record for record in batch if record[PHASE] == phase]
            child = phase_run(backend, self._file, self._identity, phase=phase, started_ms=_time_ms(records[0]))
            self._send_to(backend, child, records)
        with self._file.change() as state:
            state.sending = False

    def _send_to(self, backend: Backend, run_id: str, records: Sequence[Record]) -> None:
        new = [record for record in records if self._is_new(record, run_id=run_id)]
        points = [point for record in new for point in _points(record)]
        if points:
            backend.log_points(run_id, points)
        with self._file.change() as state:
            highest = state.sent.setdefault(run_id, {})
            for record in new:
                highest[stream(record)] = record[STEP]

    def _send_artifacts(self, backend: Backend) -> None:
        """An artifact store may be out of reach where the server is not: that must not hold up the numbers."""
        while self._artifacts and not self.artifact_problem:
            try:
                if self._artifacts[0].exists():
                    backend.log_artifact(self.run_id, self._artifacts[0])
                self._artifacts.pop(0)
            except Exception as error:
                self.artifact_problem = reason(error)

    def _send_status(self, backend: Backend) -> None:
        state = self._file.state
        wanted = cast(Status, state.wanted_status)
        if not wanted:
            return
        self._artifacts += [self._run_dir.attempts, self._run_dir.summary]
        self.artifact_problem = ""
        self._send_artifacts(backend)
        if wanted == "FINISHED":
            backend.log_model(self.run_id, name=self._run_dir.name, params=self._model_params())
        set_status(backend, self._file, self._identity, status=wanted)
        with self._file.change():
            state.wanted_status = "" if state.wanted_status == wanted else state.wanted_status

    def _model_params(self) -> dict[str, str]:
        """The architecture of the trained model: `model.*` of the config."""
        params = self._identity.params.items()
        return {key.removeprefix("model."): value for key, value in params if key.startswith("model.")}


def _points(record: Record) -> list[Point]:
    time_ms, step = _time_ms(record), int(record[STEP])
    return [Point(name, value, step=step, time_ms=time_ms) for name, value in metric_values(record).items()]


def _time_ms(record: Record) -> int:
    """When a record was written, unix time."""
    return int(record.get(TIME, 0) * 1000)


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """As many whole records as one request may carry points."""
    batch: list[Any] = []
    num_points = 0
    for record in records:
        count = len(metric_values(record))
        if batch and num_points + count > MAX_POINTS:
            yield batch
            batch, num_points = [], 0
        batch.append(record)
        num_points += count
    if batch:
        yield batch
