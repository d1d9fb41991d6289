"""`hierlm compare` and `hierlm report` as a user runs them."""

import json
from pathlib import Path

import pytest

from hierlm.config.load import load_config
from tests.conftest import ROOT, hierlm
from tests.report.conftest import MakeRun


def test_compare_prints_rows_writes_a_page_and_gives_one_document(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("good", floor=1.0)
    make_run("bad", arch="lmu", floor=2.0)
    make_run("foreign", experiment="another")
    text = hierlm("compare", "demo", "--html", "page.html", cwd=tmp_path).stdout
    assert [line.split()[0] for line in text.splitlines()[1:3]] == ["good", "bad"]
    assert "foreign" not in text
    assert "Experiment demo" in (tmp_path / "page.html").read_text()
    document = json.loads(hierlm("compare", "demo", "--json", "--sort", "run", cwd=tmp_path).stdout)
    assert [row["run"] for row in document["rows"]] == ["bad", "good"]
    assert document["differences"] == {"model.arch": ["lmu", "hourglass"]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["demp"], "nearest: 'demo'"),
        (["demo", "--sort", "memry"], "nearest: memory"),
        (["demo", "--html", "nowhere/page.html"], "cannot write nowhere/page.html"),
        (["demo", "--run-root", "elsewhere"], "no experiment 'demo' in elsewhere"),
    ],
)
def test_compare_refuses_wrong_input_in_one_line(
    make_run: MakeRun, tmp_path: Path, words: list[str], said: str
) -> None:
    make_run("a")
    done = hierlm("compare", *words, cwd=tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert said in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_compare_shows_the_same_from_mlflow_when_run_directories_are_gone(make_run: MakeRun, tmp_path: Path) -> None:
    run_dir = make_run("a")
    text = run_dir.config.read_text().replace("uri: none", "uri: sqlite:///runs/mlflow.db")
    run_dir.config.write_text(text)
    before = json.loads(hierlm("compare", "demo", "--json", cwd=tmp_path).stdout)
    page = tmp_path / "page.html"
    hierlm("track", "sync", "runs/a", cwd=tmp_path)
    for path in sorted(run_dir.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run_dir.path.rmdir()
    after = json.loads(hierlm("compare", "demo", "--json", "--html", page, cwd=tmp_path).stdout)
    (row_before,), (row_after,) = before["rows"], after["rows"]
    assert {**row_after, "runs": None} == {**row_before, "runs": None}
    assert '"long"' in page.read_text(), "the phases are known too"


def test_report_prints_numbers_and_writes_a_page(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("a")
    done = hierlm("report", "runs/a", cwd=tmp_path)
    assert "goodput" in done.stdout and "pipeline: one stage" in done.stdout
    assert "Run a" in (tmp_path / "runs" / "a" / "report.html").read_text()
    document = json.loads(hierlm("report", "runs/a", "--json", cwd=tmp_path).stdout)
    assert document["measures"]["steps"] == 100
    assert sum(v for k, v in document["time_seconds"].items() if k != "total") == pytest.approx(
        document["time_seconds"]["total"]
    )


@pytest.mark.slow
def test_report_predicts_the_shares_of_the_stages(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "deep"
    run.mkdir(parents=True)
    config = load_config(str(ROOT / "configs/tiny/hourglass.yaml"), ["parallel.pipeline_parallel_degree=2"])
    (run / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    text = hierlm("report", "runs/deep", cwd=tmp_path).stdout
    assert "pipeline: 2 stages" in text and "0.Embed" in text and "Head" in text
    stages = json.loads(hierlm("report", "runs/deep", "--json", cwd=tmp_path).stdout)["stages"]
    assert sum(stage["num_layers"] for stage in stages["stages"]) == 11
    assert sum(stage["flops_share"] for stage in stages["stages"]) == pytest.approx(1.0)


def test_report_works_before_anything_was_logged(make_run: MakeRun, tmp_path: Path) -> None:
    run_dir = make_run("a", summary=False)
    run_dir.metrics.unlink()
    run_dir.attempts.unlink()
    assert "training loss -" in hierlm("report", "runs/a", cwd=tmp_path).stdout


def test_report_refuses_what_is_no_run(tmp_path: Path) -> None:
    done = hierlm("report", "nothing", cwd=tmp_path, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "neither a run directory" in done.stderr
