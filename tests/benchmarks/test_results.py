"""RESULTS.md: ratios first, the GPU last; a part measured anew leaves the others, and a failure is told."""

import sys
from pathlib import Path

import pytest

from hierlm.config.load import load_config
from hierlm.plan.plan import make_plan
from tests.benchmarks.__main__ import document, main, ordered, read_sections, record, run
from tests.benchmarks.bench_gpu import ARCHS, CASES, NO_GPU, Case
from tests.benchmarks.bench_start import Start, parts, verdict
from tests.conftest import ROOT

OLD = "# Benchmarks\n\n2001, one\n\n## bench_data\n\n```\nfast\n```\n\n## GPU\n\n```\nnone\n```\n"


def test_ratios_come_first_and_the_gpu_last():
    assert ordered(["gpu", "data", "save", "costs", "training"]) == ["training", "data", "costs", "save", "gpu"]


def test_a_part_measured_anew_leaves_the_others_as_they_were():
    sections = read_sections(OLD)
    assert list(sections) == ["bench_data", "GPU"]
    text = document({**sections, "bench_training": "1.0x"})
    assert read_sections(text) == {**sections, "bench_training": "1.0x"}
    assert text.index("## bench_training") < text.index("## bench_data") < text.index("## GPU")
    assert document(read_sections(text)) == text


def test_the_table_of_a_campaign_stays_through_benches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.__main__.RESULTS", tmp_path / "RESULTS.md")
    (tmp_path / "RESULTS.md").write_text(OLD)
    for text in ("old", "200 struck"):
        record("chaos", text)
    sections = read_sections((tmp_path / "RESULTS.md").read_text())
    assert "200 struck" in sections["chaos"] and "old" not in sections["chaos"]
    assert read_sections(document(sections)) == sections and sections["bench_data"] == read_sections(OLD)["bench_data"]


def test_a_bench_that_fails_says_why_in_its_section(capsys: pytest.CaptureFixture[str]):
    text, is_well = run("of_nothing")
    assert not is_well
    assert "exit code 1" in text and "No module named" in text
    assert sys.prefix not in text
    assert "No module named" in capsys.readouterr().out


def test_figures_of_a_gpu_stay_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "RESULTS.md"
    monkeypatch.setattr("tests.benchmarks.__main__.RESULTS", results)
    monkeypatch.setattr("tests.benchmarks.__main__.run", lambda name: (f"{NO_GPU} {name}", True))
    monkeypatch.setattr("sys.argv", ["tests.benchmarks", "gpu"])
    results.write_text(OLD)
    with pytest.raises(SystemExit, match="0"):
        main()
    assert read_sections(results.read_text()) == read_sections(OLD)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_every_case_of_a_gpu_is_a_run_that_fits(case: Case) -> None:
    config = load_config(ROOT / "configs" / "tiny" / f"{ARCHS[case.name]}.yaml", case.overrides())
    assert make_plan(config, device_name="h100").estimate.fits


def test_an_unknown_name_is_refused_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sys.argv", ["tests.benchmarks", "nonsense"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "given nonsense, allowed: training, modern, lmu" in capsys.readouterr().err


def test_a_start_is_judged_by_its_median_and_keeps_its_split():
    split = parts("first step after 6.1 s: imports 2.9, data and checks 0.3, first step 2.0")
    assert split == {"imports": 2.9, "data and checks": 0.3, "first step": 2.0}
    starts = [Start(seconds, 5.0, split) for seconds in (1.0, 6.0, 30.0)]
    line, holds = verdict("start", starts, bound=12.0)
    assert holds and "6.00 s" in line and line.endswith("first step 2.0")
    assert not verdict("start", starts, bound=5.0)[1]
