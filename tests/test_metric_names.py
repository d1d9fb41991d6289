"""Streams and metric names."""

import pytest

from hierlm.metric_names import grad_norm_of_layer, metric_values, of_stream, reported, stream, stream_and_field

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


def test_what_layers_report_is_told_from_the_records_own_fields() -> None:
    own = {"kind": "train", "step": 3, "loss": 2.0, "grad_norm": 1.0, "skipped_steps": 0, "peak_kind": "measured"}
    own |= {grad_norm_of_layer(3): 0.5}
    layers = {"boundary_rate": 0.2, "loss/total": 2.5, "loss/boundary": 0.5}
    found = reported({**own, **layers, "unknown": None, "is_odd": True})
    assert found == layers and list(found) == ["loss/boundary", "loss/total", "boundary_rate"]


def test_a_metric_leads_back_to_its_stream_and_field_through_every_slash() -> None:
    layers = {"loss": 1.0, "loss/boundary": 0.5, "boundary_rate": 0.2}
    record = {"kind": "eval", "split": "valid", "step": 3, **layers, "sources": {"web/wiki": {**layers, "weight": 1.0}}}
    found: dict[str, set[str]] = {}
    for metric in metric_values(record):
        where, field = stream_and_field(metric)
        found.setdefault(where, set()).add(field)
    assert found == {"valid": set(layers), "valid/web/wiki": {*layers, "weight"}}
    assert stream_and_field("system/node2/cpu") == ("system/node2", "cpu")
    assert stream_and_field("valid/loss/perplexity") == ("valid/loss", "perplexity")  # of a source of that name
