"""Streams and metric names."""

import pytest

from hierlm.tracking.names import metric_values, of_stream, stream

RECORDS = [
    {"kind": "train", "step": 3, "loss": 1.5},
    {"kind": "eval", "step": 3, "split": "test", "loss": 1.5},
    {"kind": "save", "step": 3, "save_seconds": 0.5},
    {"kind": "start_up", "step": 3, "imports_seconds": 0.5},
    {"kind": "system", "step": 3, "node": "node2", "cpu_utilization_percentage": 90.0},
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["kind"])
def test_a_stream_name_leads_back_to_the_fields_that_made_it(record: dict[str, object]) -> None:
    fields = of_stream(stream(record))
    assert fields.items() <= record.items()
    assert stream(fields) == stream(record)


def test_streams_of_different_kinds_are_different() -> None:
    assert len({stream(record) for record in RECORDS}) == len(RECORDS)


def test_metrics_are_the_numbers_of_a_record_under_its_stream() -> None:
    record = {"kind": "train", "step": 3, "time": 1.0, "phase": "a", "loss": 2, "ok": True, "none": None}
    assert metric_values(record) == {"train/loss": 2.0}


def test_each_source_of_a_mixture_has_metrics_of_its_own() -> None:
    sources = {"wiki": {"loss": 1.0, "weight": 0.25}, "code": {"loss": 2.0, "weight": 0.75}}
    assert metric_values({"kind": "eval", "split": "valid", "step": 3, "loss": 1.75, "sources": sources}) == {
        "valid/loss": 1.75,
        "valid/wiki/loss": 1.0,
        "valid/wiki/weight": 0.25,
        "valid/code/loss": 2.0,
        "valid/code/weight": 0.75,
    }
