"""The curves of a run over every axis a reader may want: steps, tokens, seconds of training, FLOPs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hierlm import metric_names
from hierlm.report.run_record import Record, RunRecord

AXES = {"tokens": "training tokens", "steps": "steps", "seconds": "training time (s)", "flops": "training FLOPs"}
_MOST_POINTS = 1500  # per curve of a page: more than a screen has columns


@dataclass(frozen=True)
class Curve:
    """`y` over every axis; points whose y is unknown are left out."""

    x: Mapping[str, Sequence[float]]  # axis -> values
    y: Sequence[float]


@dataclass(frozen=True)
class PhaseStart:
    """Where a phase after the first begins."""

    name: str
    x: Mapping[str, float]


def training_curve(run: RunRecord, field: str) -> Curve:
    """A field of the logged steps, thinned to what a screen can show: means of neighbours."""
    return thinned(_curve(run, run.train, field), most_points=_MOST_POINTS)


def evaluation_curve(run: RunRecord, field: str, *, split: str = "valid") -> Curve:
    return _curve(run, run.evaluations(split), field)


def phase_starts(run: RunRecord) -> list[PhaseStart]:
    """One per change of phase along the logged steps, placed at the last step before it."""
    positions = _positions(run)
    return [
        PhaseStart(str(after.get(metric_names.PHASE)), positions[int(before[metric_names.STEP])])
        for before, after in pairwise(run.train)
        if before.get(metric_names.PHASE) != after.get(metric_names.PHASE)
    ]


def smoothed(values: Sequence[float], *, window: float) -> list[float]:
    """Exponential moving average over about `window` points, without the bias of its start; as it is below two."""
    weight = 1.0 - 1.0 / max(window, 1.0)
    result, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        result.append(total / norm)
    return result


def thinned(curve: Curve, *, most_points: int) -> Curve:
    """At most `most_points`: each the mean over a stretch of neighbours, x at the end of the stretch."""
    stretch = -(-len(curve.y) // most_points)
    if stretch <= 1:
        return curve
    starts = range(0, len(curve.y), stretch)
    ends = [min(start + stretch, len(curve.y)) for start in starts]
    means = [math.fsum(curve.y[start:end]) / (end - start) for start, end in zip(starts, ends, strict=True)]
    return Curve({axis: [values[end - 1] for end in ends] for axis, values in curve.x.items()}, means)


def _curve(run: RunRecord, records: Sequence[Record], field: str) -> Curve:
    positions = _positions(run)
    points = [
        (_position(positions, int(record[metric_names.STEP])), float(record[field]))
        for record in records
        if isinstance(record.get(field), int | float) and math.isfinite(record[field])
    ]
    return Curve({axis: [x[axis] for x, _ in points] for axis in AXES}, [y for _, y in points])


def _positions(run: RunRecord) -> dict[int, dict[str, float]]:
    """Logged step -> its place on every axis; evaluation and saving do not count as training time."""
    flops = 0.0 if run.summary is None else run.summary.flops_per_token or 0.0
    positions: dict[int, dict[str, float]] = {0: dict.fromkeys(AXES, 0.0)}
    seconds, before = 0.0, 0
    for record in run.train:
        step, tokens = int(record[metric_names.STEP]), float(record.get(metric_names.TOKENS_SEEN, 0))
        seconds += (step - before) * float(record.get(metric_names.STEP_SECONDS, 0.0))
        before = step
        positions[step] = {"tokens": tokens, "steps": step, "seconds": seconds, "flops": flops * tokens}
    return positions


def _position(positions: Mapping[int, Mapping[str, float]], step: int) -> Mapping[str, float]:
    """Of a step; an evaluation between two logged steps stands where the earlier one does."""
    return positions.get(step) or positions[max(known for known in positions if known <= step)]
