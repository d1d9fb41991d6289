"""CLAIMS.md and the plots are made from exported results alone."""

import re
from xml.etree import ElementTree

import pytest

from hierlm.errors import UserError
from tests.benchmarks.bench_activation_memory import MEASURES
from tests.benchmarks.claims import document, hourglass, multi_scale
from tests.benchmarks.claims.catalogue import CLAIMS
from tests.benchmarks.claims.making import made_up
from tests.benchmarks.claims.results import export, gather, read, results_file
from tests.conftest import ROOT

BY_NAME = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
LARGEST_EXPORT_BYTES = 200_000


@BY_NAME
def test_results_come_back_from_their_file_as_they_were(claim, tmp_path):
    results = made_up(claim, {})
    export(results, tmp_path / "results.json")
    assert read(tmp_path / "results.json") == results


def test_results_of_another_version_are_refused(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="not results of this version"):
        read(tmp_path / "results.json")


@BY_NAME
def test_a_table_has_a_row_for_every_arm_and_a_cell_for_every_column(claim):
    lines = list(document.table(claim, made_up(claim, {})))
    assert len(lines) == 2 + len(claim.arms)
    assert {line.count("|") for line in lines} == {len(claim.columns) + 2}


@BY_NAME
def test_missing_runs_leave_the_verdict_open(claim):
    results = made_up(claim, {})
    less = results.model_copy(update={"runs": results.runs[1:]})
    assert document.one_line(claim, less).startswith(f"not finished: 1 of {len(claim.runs)} runs are missing")
    assert document.one_line(claim, None) == "not run yet"


@BY_NAME
def test_a_plot_is_an_svg_whose_words_can_be_read_and_is_the_same_every_time(claim):
    results = made_up(claim, {})
    svg = claim.figure(results)
    texts = {element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    names = {re.split(", d =|: ", arm.title)[0] for arm in claim.arms}  # without the width, or what was measured apart
    assert names <= texts
    assert svg == claim.figure(results)


@BY_NAME
def test_kept_results_are_small_and_of_this_version(claim):
    path = results_file(claim)
    if not path.exists():
        pytest.skip(f"{claim.name} has not been run: make claim-{claim.name}")
    assert path.stat().st_size < LARGEST_EXPORT_BYTES
    assert read(path).claim == claim.name


def test_the_document_says_what_its_results_say(tmp_path):
    document.write(CLAIMS, to=tmp_path / "CLAIMS.md")
    if not document.DOCUMENT.exists():
        pytest.skip("no claim has been run: make claims")
    assert document.DOCUMENT.read_text() == (tmp_path / "CLAIMS.md").read_text()


def test_the_readme_says_what_the_document_says():
    readme = (ROOT / "README.md").read_text()
    numbers = re.findall(r"\d+\.\d+ ± \d+\.\d+", readme)
    assert len(numbers) >= 6
    assert set(numbers) <= set(re.findall(r"\d+\.\d+ ± \d+\.\d+", document.DOCUMENT.read_text()))


def test_activations_are_told_where_they_were_measured():
    claim = multi_scale.CLAIM
    names = (multi_scale.PLAIN, *multi_scale.HIERARCHICAL)
    measured = {name: dict.fromkeys(MEASURES, 100 if name == multi_scale.PLAIN else 80) for name in names}
    results = made_up(claim, {})
    told = claim.judge(results.model_copy(update={"measured": measured}))[len(claim.judge(results)) :]
    assert [finding.text.count("-20 %") for finding in told] == [3] * len(MEASURES)


def test_nothing_is_gathered_where_nothing_has_finished(monkeypatch, tmp_path):
    monkeypatch.setattr("tests.benchmarks.claims.results.ROOT", tmp_path)
    with pytest.raises(UserError, match="hourglass: no run has finished"):
        gather(hourglass.CLAIM)
