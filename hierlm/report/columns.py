"""The columns of a comparison: what each shows, from the summary or, while there is none, from the records."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any, Literal

from hierlm import metric_names, objectives
from hierlm.objectives.config import DEFAULT_OBJECTIVE
from hierlm.report import formats
from hierlm.report.run_record import RunRecord
from hierlm.report.summary import SplitResult

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """`better` says which end of the column is the good one, if any."""

    key: str
    title: str
    help: str
    shown: Callable[[float], str] | None = None  # None: text
    better: Literal["low", "high"] | None = None


_OF_EVERY_RUN = (
    Column("run", "run", "name of the run, or of runs that differ in nothing but the seed"),
    Column("model", "model", "architecture"),
    Column(
        "bits_per_byte",
        "bits/byte",
        "of the last evaluation of the valid split; several sources: weighted mean",
        formats.quality,
        "low",
    ),
    Column("bits_per_dimension", "bits/dim", "the same of images, a byte being a dimension", formats.quality, "low"),
    Column(
        "loss",
        "loss",
        "nats per token, last evaluation of the valid split; several sources: weighted mean",
        formats.quality,
        "low",
    ),
    Column("perplexity", "ppl", "exp(loss), per token", formats.quality, "low"),
    Column("num_parameters", "params", "all trained parameters", formats.count),
    Column("peak_device_memory_bytes", "memory", "peak of the rank that needed most", formats.data_size, "low"),
    Column("tokens_per_second", "tok/s", "median over logged steps, all ranks", formats.count, "high"),
    Column("tokens_seen", "tokens", "training tokens", formats.count),
    Column("wall_seconds", "wall", "wall time over all attempts", formats.duration),
    Column("device_seconds", "device", "wall time x devices", formats.duration),
    Column("share_of_peak", "of peak", "share of the device's peak FLOPs; MFU on a known GPU", formats.share, "high"),
    Column("train_flops", "FLOPs", "forward and backward of all training tokens", formats.count),
    Column("num_non_embedding_parameters", "non-emb", "parameters without embeddings", formats.count),
    Column("test_bits_per_byte", "test b/b", "bits per byte of the test split", formats.quality, "low"),
    Column("test_bits_per_dimension", "test b/d", "bits per dimension of the test split", formats.quality, "low"),
    Column("steps", "steps", "optimizer steps", formats.count),
    Column("seed", "seed", "of the run; how many there are where several are shown as one"),
    Column("status", "status", "running, finished, stopped or failed"),
)


def all_columns() -> tuple[Column, ...]:
    """All there are, those of the objectives that are known now (a plugin's too) at the end."""
    return (*_OF_EVERY_RUN, *headlines())


def column_of(key: str) -> Column:
    """The one of this key, which is known."""
    return _by_key(_asked())[key]


def headlines() -> tuple[Column, ...]:
    """What runs of other objectives are compared by: of the valid and of the test split."""
    return _headlines(_asked())


QUALITIES = (metric_names.BITS_PER_DIMENSION, metric_names.BITS_PER_BYTE)
"""What runs are judged by, before the loss: it does not depend on the tokenizer."""


def _asked() -> tuple[tuple[str, bool], ...]:
    """(headline, whether lower is better) of every objective."""
    known = [objectives.objective(name) for name in objectives.names()]
    return tuple((one.HEADLINE, bool(one.LOWER_IS_BETTER)) for one in known)


@cache
def _headlines(asked: tuple[tuple[str, bool], ...]) -> tuple[Column, ...]:
    taken = {column.key for column in _OF_EVERY_RUN}
    return tuple(
        Column(start + name, title + name, f"of the last evaluation of the {split} split", formats.quality, better)
        for name, lower in dict(asked).items()
        if name not in taken
        for better in (("low",) if lower else ("high",))
        for start, title, split in (("", "", "valid"), ("test_", "test ", "test"))
    )


@cache
def _by_key(asked: tuple[tuple[str, bool], ...]) -> Mapping[str, Column]:
    return {column.key: column for column in (*_OF_EVERY_RUN, *_headlines(asked))}


def measures(run: RunRecord) -> dict[str, Value]:
    """Column key -> value of one run; None where it is not known."""
    values = {**_from_records(run), **_from_summary(run)}
    return {
        **{column.key: None for column in all_columns()},
        "run": run.name,
        "model": run.config.get("model.arch", "?"),
        "headline": headline(run),
        "seed": run.config.get("seed"),
        "status": "unknown" if run.summary is None else run.summary.status,
        **{key: value for key, value in values.items() if value is not None},
    }


def headline(run: RunRecord) -> str:
    """The metric that the run's objective is judged by; the loss where no such objective is known here."""
    name = run.config.get("objective.name", DEFAULT_OBJECTIVE)
    return str(objectives.objective(name).HEADLINE) if objectives.is_known(name) else metric_names.LOSS


def quality_of(measured: Sequence[Mapping[str, Value]]) -> str:
    """The column to judge runs by: the headline of their objective, if it is one for all of them.

    Where that is the loss, bits per dimension or byte are taken if every run with a loss has them.
    """
    asked = {str(values.get("headline", metric_names.LOSS)) for values in measured}
    if asked != {metric_names.LOSS} and len(asked) == 1:
        return asked.pop()
    known = [values for values in measured if values["loss"] is not None]
    return next((key for key in QUALITIES if known and all(v[key] is not None for v in known)), metric_names.LOSS)


def _from_summary(run: RunRecord) -> dict[str, Value]:
    summary = run.summary
    if summary is None:
        return {}
    known = _by_key(_asked())
    valid = {} if summary.valid is None else _known(summary.valid)
    plain = {key: getattr(summary, key) for key in known if key in type(summary).model_fields and key != "seed"}
    test = {} if summary.test is None else {f"test_{name}": value for name, value in _known(summary.test).items()}
    return {**valid, **plain, "train_flops": summary.train_flops, **{k: v for k, v in test.items() if k in known}}


def _known(result: SplitResult) -> dict[str, Value]:
    """What has a column."""
    found = {**result.model_dump(exclude={"step", "metrics"}), **result.metrics}
    return {name: value for name, value in found.items() if name in _by_key(_asked())}


def _of_evaluations() -> tuple[str, ...]:
    return (metric_names.LOSS, metric_names.PERPLEXITY, *QUALITIES, *(column.key for column in headlines()))


def _from_records(run: RunRecord) -> dict[str, Value]:
    """What a run that is still going, or was killed, has shown so far."""
    train, valid = run.train, run.evaluations("valid")
    last: Mapping[str, Any] = valid[-1] if valid else {}
    values: dict[str, Value] = {key: last.get(key) for key in _of_evaluations()}
    if train:
        values |= {key: train[-1].get(source) for key, source in (("steps", "step"), ("tokens_seen", "tokens_seen"))}
        values["tokens_per_second"] = _typical(train, metric_names.TOKENS_PER_SECOND)
        values["share_of_peak"] = _typical(train, "share_of_peak")
        values["peak_device_memory_bytes"] = max(numbers(train, metric_names.DEVICE_MEMORY_BYTES), default=None)
    return values


def _typical(records: Sequence[Mapping[str, Any]], field: str) -> float | None:
    found = numbers(records, field)
    return median(found) if found else None


def numbers(records: Sequence[Mapping[str, Any]], field: str) -> list[float]:
    """The finite numbers a field holds."""
    found = (record.get(field) for record in records)
    return [float(value) for value in found if isinstance(value, int | float) and math.isfinite(value)]
