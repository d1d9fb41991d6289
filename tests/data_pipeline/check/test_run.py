"""Everything wrong with a run's data is said at once, before training."""

import subprocess
import sys

import pytest

from data_pipeline.check.run import check, evaluation_problems
from data_pipeline.config import SourceConfig
from tests.data_pipeline.making import prepared

TEXT = b"tokens enough for some rows\n" * 100  # 2800 bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks")
    prepared(folder / "bytes", TEXT, splits="valid=0.1")
    prepared(folder / "pieces", TEXT, splits="valid=0.1", tokenizer="sentencepiece", vocab_size=270)
    return folder


def problems(folder, *names, **options):
    settings = {"sequence_lengths": [64], "vocab_size": 256, "splits": ["train", "valid"]} | options
    return check([SourceConfig(path=str(folder / name)) for name in names], **settings)


def test_a_run_that_can_be_made_has_no_problem(folder):
    assert problems(folder, "bytes", tokenizer="bytes", lanes=8) == []


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["absent"], {}, "no such dataset"),
        (["pieces"], {}, "model.vocab_size is 256; set model.vocab_size=2"),
        (["bytes"], {"tokenizer": "sentencepiece"}, "another tokenizer"),
        (["bytes"], {"tokenizer": "0123456789abcdef"}, "another tokenizer"),
        (["bytes"], {"sequence_lengths": [64, 2520]}, "sequence_length 2520 is longer than the train split"),
        (["bytes"], {"lanes": 40}, "for 40 lanes"),
        (["bytes"], {"splits": ["test"]}, "no split 'test'; it has: train, valid"),
        (["bytes", "pieces"], {"vocab_size": 300}, "must share one"),
    ],
)
def test_each_problem_is_one_line_that_names_the_dataset(folder, names, options, said):
    (problem,) = problems(folder, *names, **options)
    assert said in problem and str(folder / names[-1]) in problem and "\n" not in problem


def test_all_problems_are_reported_together(folder):
    assert len(problems(folder, "absent", "bytes", sequence_lengths=[9999], tokenizer="sentencepiece")) == 3


def test_checks_need_no_torch():
    code = "import data_pipeline.check.run, data_pipeline.prepare.dataset, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_phase_needs_a_source_to_evaluate_on(folder):
    prepared(folder / "whole", TEXT)
    paths = [str(folder / "bytes"), str(folder / "whole")]
    assert evaluation_problems(paths, {"a": (1, 1), "b": (1, 0)}) == []
    (line,) = evaluation_problems(paths, {"a": (1, 1), "b": (0, 1)})
    assert line == f"phase b: nothing to evaluate on: {paths[1]}: no split 'valid'; it has: train"
    (line,) = evaluation_problems(paths, {"a": (1, 1)}, split="test")
    assert line.startswith("nothing to evaluate on: ") and line.count("no split 'test'") == 2
