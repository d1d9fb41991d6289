"""Where the time of a run went, over all its attempts, and how much of it made progress (goodput)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hierlm import metric_names
from hierlm.report.columns import numbers
from hierlm.report.run_record import Record, RunRecord
from hierlm.tracking.believable import moment

PARTS = {
    "compute": "steps that count, without waiting for data",
    "data_wait": "waiting for the next batch",
    "evaluation": "evaluating",
    "save": "held up by writing checkpoints",
    "start_up": "from the start of an attempt to its first step",
    "lost": "after a kill: steps that had to be made again, and nobody knows how long nothing ran",
    "between": "between the end of an attempt and the start of the next: queues, restarts",
    "other": "everything else",
}


@dataclass(frozen=True)
class TimeSplit:
    """Seconds by part; the parts add up to `total_seconds`, first start to last sign of life."""

    total_seconds: float
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def goodput(self) -> float | None:
        """Share of the time spent computing steps that count."""
        return self.seconds["compute"] / self.total_seconds if self.total_seconds > 0 else None


def time_split(run: RunRecord) -> TimeSplit | None:
    """None without attempts: a run read from a tracker does not say when they began."""
    spans = attempt_spans(run.attempts, run.records)
    if not spans:
        return None
    total = spans[-1].end - spans[0].start
    steps = _step_seconds(run.train)
    waits = [seconds * float(record.get(metric_names.DATA_WAIT_FRACTION, 0.0)) for record, seconds in steps]
    seconds = {
        "compute": sum(seconds for _, seconds in steps) - sum(waits),
        "data_wait": sum(waits),
        "evaluation": sum(numbers(run.records, metric_names.EVAL_SECONDS)),
        "save": sum(numbers(run.records, metric_names.SAVE_BLOCKING_SECONDS)),
        "start_up": sum(_start_up(span, steps) for span in spans),
        "lost": sum(after.start - before.end for before, after in pairwise(spans) if not before.has_end),
        "between": sum(after.start - before.end for before, after in pairwise(spans) if before.has_end),
    }
    known = {part: max(value, 0.0) for part, value in seconds.items()}
    return TimeSplit(total, {**known, "other": max(total - sum(known.values()), 0.0)})


@dataclass(frozen=True)
class Span:
    """One attempt in unix seconds; without an end record it ends with the last record that was kept."""

    start: float
    end: float
    has_end: bool

    @property
    def seconds(self) -> float:
        return self.end - self.start


def attempt_spans(attempts: Sequence[Record], records: Sequence[Record]) -> list[Span]:
    """From the lines of attempts.jsonl and metrics.jsonl; a killed attempt left no end, but records."""
    starts = [index for index, record in enumerate(attempts) if record.get("event") == "start"]
    kept = sorted(numbers(records, metric_names.TIME))
    spans = []
    for index in starts:
        start = _unix(attempts[index])
        following = attempts[index + 1] if index + 1 < len(attempts) else None
        if following is not None and following.get("event") == "end":
            spans.append(Span(start, _unix(following), has_end=True))
            continue
        latest = _unix(following) if following is not None else float("inf")
        last_sign = max((time for time in kept if start <= time <= latest), default=start)
        spans.append(Span(start, last_sign, has_end=False))
    return spans


def _step_seconds(train: Sequence[Record]) -> list[tuple[Record, float]]:
    """Each logged step with the seconds of all steps since the one logged before."""
    before = [0, *(int(record[metric_names.STEP]) for record in train)]
    return [
        (record, (int(record[metric_names.STEP]) - last) * float(record.get(metric_names.STEP_SECONDS, 0.0)))
        for record, last in zip(train, before, strict=False)
    ]


def _start_up(span: Span, steps: Sequence[tuple[Record, float]]) -> float:
    """Until the first logged interval of the attempt began; all of it when it logged nothing."""
    inside = [
        (float(r[metric_names.TIME]), seconds)
        for r, seconds in steps
        if span.start <= r.get(metric_names.TIME, 0.0) <= span.end
    ]
    if not inside:
        return span.end - span.start
    first, seconds = inside[0]
    return max(first - seconds - span.start, 0.0)


def _unix(record: Record) -> float:
    """attempts.jsonl writes times as ISO 8601."""
    time = moment(record)
    assert time is not None  # such a line is not believed
    return time.timestamp()
