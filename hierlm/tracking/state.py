"""tracker.json: which runs at the tracker belong to this run directory, and how much of metrics.jsonl they have."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import uuid4

from hierlm.durable import rename

_UUID = re.compile(r"[0-9a-f]{32}")


@dataclass
class TrackerState:
    """Everything a later attempt, or `hierlm track sync`, needs to go on without gaps or duplicates."""

    uri: str = ""
    run_id: str = ""  # the tracker's
    phase_runs: dict[str, str] = field(default_factory=dict)  # phase name -> run id
    sent: dict[str, dict[str, int]] = field(default_factory=dict)  # run id -> stream -> highest step the tracker has
    sending: bool = False  # a batch was on its way when this was written: ask the tracker what arrived
    status: str = ""  # what the tracker was last told
    wanted_status: str = ""  # what it is to be told after the last record

    def forget_runs(self) -> None:
        """The tracker does not know our runs (another server, or it was emptied): everything is to be sent again."""
        self.run_id, self.phase_runs, self.sent, self.sending, self.status = "", {}, {}, False, ""


class StateFile:
    """The state and its file; two threads may change it, one process at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = _loaded(path)
        self._lock = threading.RLock()

    @contextmanager
    def change(self) -> Iterator[TrackerState]:
        """Changes made inside are on disk, atomically, when the block ends."""
        with self._lock:
            yield self.state
            _replace(self.path, json.dumps(asdict(self.state), indent=1) + "\n")


def run_uuid(path: Path) -> str:
    """The identity of a run directory, made by the first who asks; it outlives a lost tracker.json."""
    known = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else ""
    if not _UUID.fullmatch(known):  # damaged: the tracker will have two of this run
        known = uuid4().hex
        _replace(path, known + "\n")
    return known


def _loaded(path: Path) -> TrackerState:
    """A missing or unreadable file is a fresh state: the tags find the run again, and the tracker says what it has.

    What an older version kept besides is left out.
    """
    fresh = TrackerState()
    known: dict[str, Any] = {each.name: type(getattr(fresh, each.name)) for each in fields(fresh)}
    try:
        read: dict[str, Any] = json.loads(path.read_bytes())
        found = TrackerState(**{key: value for key, value in read.items() if isinstance(value, known.get(key, ()))})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return fresh
    return found if _is_sound(found) else fresh


def _is_sound(state: TrackerState) -> bool:
    """Down to the numbers: what another thread stumbles over would leave the tracker behind for good."""
    runs = all(isinstance(run_id, str) for run_id in state.phase_runs.values())
    return runs and all(
        isinstance(streams, dict) and all(isinstance(step, int) for step in streams.values())
        for streams in state.sent.values()
    )


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{token_hex(8)}.partial")
    with partial.open("x", encoding="utf-8") as file:
        file.write(text)
    rename(partial, path)
