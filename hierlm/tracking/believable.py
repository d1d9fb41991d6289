"""What a line of a run's own files must be to be believed: what some version of this writes there, and nothing else.

A power cut, a bad disk or an editor leaves bytes that are no JSON, or JSON that is no record. Such a line says nothing
and is passed over, for all who read: they may rely on names and types.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from hierlm.metric_names import FIELDS, KIND, NODE, PHASE, SOURCES, SPLIT, STEP, TIME, WEIGHT

_TEXTS = frozenset({KIND, PHASE, SPLIT, NODE, "peak_kind"})
_NUMBERS = FIELDS - _TEXTS - {SOURCES}
_LARGEST = 10**18
"""Of a whole number: steps, tokens, bytes, process numbers."""
_YEARS = range(1971, 2500)


def is_metric(record: Mapping[str, Any]) -> bool:
    """A record of metrics.jsonl, or of a node's system file."""
    step, time = record.get(STEP), record.get(TIME, 0.0)
    if not _is_count(step) or not _is_number(time) or not math.isfinite(time):
        return False
    texts = all(isinstance(record[name], str | None) for name in _TEXTS & record.keys())
    numbers = all(_is_number(record[name]) or record[name] is None for name in _NUMBERS & record.keys())
    others = all(_is_plain(value) for name, value in record.items() if name != SOURCES)
    return texts and numbers and others and _are_sources(record.get(SOURCES, {}))


def is_attempt(record: Mapping[str, Any]) -> bool:
    """A start or end in attempts.jsonl."""
    texts = all(isinstance(record.get(name), str | None) for name in ("host", "job_id", "why"))
    counts = all(_is_count(record[name]) for name in ("attempt", "first_step", "last_step", "pid") if name in record)
    return record.get("event") in ("start", "end") and moment(record) is not None and texts and counts


def is_job_event(record: Mapping[str, Any]) -> bool:
    """A line of jobs.jsonl: of a job, or of several that a person wanted to end."""
    told = record.get("job_ids")
    jobs = isinstance(told, list) and all(isinstance(job, str) for job in told)
    texts = all(isinstance(record.get(name), str | None) for name in ("reason", "then", "part"))
    of_something = jobs if "job_ids" in record else isinstance(record.get("job_id"), str)
    return isinstance(record.get("event"), str) and moment(record) is not None and texts and of_something


def moment(record: Mapping[str, Any]) -> datetime | None:
    """When a line of attempts.jsonl or jobs.jsonl was written; None where it does not say."""
    try:
        found = datetime.fromisoformat(record["time"])
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        return found if found.year in _YEARS else None
    except (KeyError, TypeError, ValueError):
        return None


def _are_sources(value: Any) -> bool:
    """The sources of an evaluation: by name, numbers, and the share of each."""
    return isinstance(value, Mapping) and all(
        isinstance(each, Mapping)
        and (_is_number(each.get(WEIGHT)) or WEIGHT not in each)
        and all(_is_plain(field) for field in each.values())
        for each in value.values()
    )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _is_number(value: Any) -> bool:
    """Floats that are not finite were written by early versions."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, float) or (is_whole and abs(value) <= _LARGEST)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
