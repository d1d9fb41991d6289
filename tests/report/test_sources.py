"""A mixture's sources are shown one by one, from a run directory and from a tracker alike."""

import json

from hierlm.metric_names import metric_values, of_stream, stream
from hierlm.report.run_record import RunRecord, load_run
from hierlm.report.run_report import document, run_page, text
from hierlm.report.sources import NOTE, last_sources
from tests.report.conftest import MakeRun

SOURCES = {
    "wiki": {"weight": 0.75, "loss": 1.0, "bits_per_byte": 1.5, "tokens": 1200},
    "code": {"weight": 0.25, "loss": 2.0, "bits_per_byte": 2.5, "tokens": 30},
}
RECORD = {"kind": "eval", "split": "valid", "step": 100, "phase": "long", "loss": 1.25, "bits_per_byte": 1.75}


def mixed(make_run: MakeRun) -> RunRecord:
    run_dir = make_run("mixed")
    with run_dir.metrics.open("a") as file:
        file.write(json.dumps({**RECORD, "sources": SOURCES, "time": 1.8e9}) + "\n")
    return load_run(run_dir.path)


def test_the_report_shows_each_source_and_what_the_headline_is(make_run: MakeRun) -> None:
    run = mixed(make_run)
    lines = text(run, balance=None).splitlines()
    assert any("weighted as the phase draws from them" in line for line in lines)
    assert any(line.split() == ["wiki", "0.75", "1.5000", "1.0000", "1,200"] for line in lines)
    assert document(run, balance=None)["sources"] == SOURCES
    assert "wiki" in run_page(run, balance=None)


def test_a_run_of_one_source_has_no_such_table(make_run: MakeRun) -> None:
    run = load_run(make_run("plain").path)
    assert last_sources(run) == {}
    assert NOTE not in run_page(run, balance=None)


def test_a_tracker_gives_the_sources_back(make_run: MakeRun) -> None:
    run = mixed(make_run)
    found: dict[str, dict[str, object]] = {}
    for name, value in metric_values(run.evaluations("valid")[-1]).items():
        prefix, _, field = name.rpartition("/")
        found.setdefault(prefix, {**of_stream(prefix), "step": 100})[field] = value
    assert {stream(record) for record in found.values()} == {"valid", "valid/wiki", "valid/code"}
    tracked = RunRecord(run.name, "uri", run.config, list(found.values()), attempts=(), summary=None)
    shown = {name: {key: record[key] for key in SOURCES[name]} for name, record in last_sources(tracked).items()}
    assert shown == SOURCES
