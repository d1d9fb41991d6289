"""Runs go through `hierlm train`; a finished one is not run again, one of other settings is not taken for it."""

from pathlib import Path

import pytest

from hierlm.config.load import dump_config
from hierlm.errors import UserError
from hierlm.report.run_record import load_run
from tests.benchmarks.claims.corpora import Corpus, prepare
from tests.benchmarks.claims.declared import Run
from tests.benchmarks.claims.results import run_path, run_result
from tests.benchmarks.claims.runner import Runner, first_of_each, unfinished


def tiny(tmp_path: Path, *more: str, seed: int = 1, name: str = "a") -> Run:
    short = ("phases.0.duration.steps=4", "phases.0.learning_rate.warmup.steps=1")
    words = (f"run_root={tmp_path}", "tracking.uri=none", *short, f"seed={seed}", f"name={name}")
    return Run(name, "arm", seed, Path("configs/tiny/transformer.yaml"), (*words, *more))


def test_a_finished_run_is_no_work_and_one_that_was_begun_is(tmp_path):
    run = tiny(tmp_path)
    assert [work.run for work in unfinished([run])] == [run]
    run_path(run).mkdir()
    (run_path(run) / "config.yaml").write_text(dump_config(run.load()))
    assert [work.run for work in unfinished([run])] == [run]
    (run_path(run) / "FINISHED").touch()
    assert unfinished([run]) == []


def test_a_run_of_other_settings_is_refused_with_the_first_difference(tmp_path):
    run = tiny(tmp_path)
    run_path(run).mkdir()
    (run_path(run) / "config.yaml").write_text(dump_config(run.load()))
    with pytest.raises(UserError, match=r"holds a run of other settings \(phases.0.duration.steps: 4 -> 8\)"):
        unfinished([run.with_overrides("phases.0.duration.steps=8")])


def test_a_rehearsal_takes_one_run_of_each_arm(tmp_path):
    runs = [tiny(tmp_path, seed=seed, name=f"a{seed}") for seed in (1, 2)]
    assert list(first_of_each(runs)) == runs[:1]


def test_an_absent_corpus_is_named_with_the_variable():
    corpus = Corpus("none", ("{data}/no-such-corpus.txt",), (), "")
    with pytest.raises(UserError, match=r"no-such-corpus\.txt: no such corpus; HIERLM_TEST_DATA is"):
        prepare(corpus)


@pytest.mark.slow
def test_runs_are_trained_and_a_failed_one_is_named(tmp_path, tiny_dataset):
    data = f"data.path={tiny_dataset}"
    runs = [tiny(tmp_path, data), tiny(tmp_path, "data.path=/nowhere", name="b")]
    said: list[str] = []
    failed = Runner(unfinished(runs), at_once=2, say=said.append).run()
    assert len(failed) == 1 and failed[0].startswith("b: failed with exit code 2; ")
    assert "/nowhere" in Path(failed[0].rpartition("; ")[2]).read_text()
    assert unfinished(runs[:1]) == []
    found = run_result(runs[0], load_run(run_path(runs[0])))
    assert found.steps == 4 and found.tokens == 4 * 8 * 128
    assert found.train_seconds > 0 and found.evaluations.tokens == (found.tokens,)
