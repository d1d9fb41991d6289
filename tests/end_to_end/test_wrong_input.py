"""Wrong input ends with exit code 2 and one clear line per problem, and never with a traceback."""

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT, hierlm

TINY = ROOT / "configs" / "tiny" / "hourglass.yaml"


def refused(*arguments: object, cwd: Path) -> list[str]:
    """The lines on stderr of a command that must be refused."""
    done = hierlm(*arguments, cwd=cwd, check=False, timeout=600)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines, "nothing was said"
    return lines


def train(dataset: Path, *overrides: str, cwd: Path) -> list[str]:
    return refused("train", TINY, f"data.path={dataset}", "tracking.uri=none", *overrides, cwd=cwd)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["modle.hidden_dim=64"], ["modle", "model"]),
        (["model.hiden_dim=64"], ["hiden_dim", "hidden_dim"]),
        (["model.hidden_dim=wide"], ["model.hidden_dim", "wide"]),
        (["phases.0.global_batch_size=7", "parallel.data_parallel_degree=2"], ["global_batch_size", "7", "2"]),
        (["model.arch=hourglas"], ["hourglas", "hourglass"]),
        (["phases.0.sequence_length=10000000"], ["sequence_length", "10000000"]),
        (["model.vocab_size=100"], ["vocab", "100", "256"]),
        (["data.tokenizer=sentencepiece"], ["sentencepiece", "bytes"]),
    ],
)
def test_a_wrong_config_is_refused_in_one_line(
    overrides: list[str], said: list[str], tiny_dataset: Path, tmp_path: Path
) -> None:
    lines = train(tiny_dataset, *overrides, cwd=tmp_path)
    assert len(lines) == 1, lines
    assert all(word in lines[0] for word in said), lines
    assert not (tmp_path / "runs").exists(), "a refused run leaves nothing behind"


def test_all_problems_are_reported_together(tiny_dataset: Path, tmp_path: Path) -> None:
    lines = train(tiny_dataset, "model.hiden_dim=64", "phases.0.duration.steps=many", "sede=1", cwd=tmp_path)
    assert len(lines) == 3, lines


def test_a_missing_dataset_is_named(tmp_path: Path) -> None:
    lines = refused("train", TINY, "data.path=no/such/dataset", cwd=tmp_path)
    assert len(lines) == 1
    assert "no/such/dataset" in lines[0]


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    assert "no-such.yaml" in refused("train", "no-such.yaml", cwd=tmp_path)[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere: the file-in-the-way case below stands in")
def test_an_unwritable_run_root_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "closed" in train(tiny_dataset, "run_root=closed", cwd=tmp_path)[0]


def test_a_file_in_the_way_of_the_run_root_is_named(tiny_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    lines = train(tiny_dataset, "run_root=taken", cwd=tmp_path)
    assert len(lines) == 1
    assert "taken" in lines[0]


def test_an_empty_text_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    lines = refused("data", "prepare", "--input", "empty.txt", "--output", "out", cwd=tmp_path)
    assert any("empty.txt" in line for line in lines)


def test_a_missing_text_file_is_named(tmp_path: Path) -> None:
    lines = refused("data", "prepare", "--input", "absent.txt", "--output", "out", cwd=tmp_path)
    assert any("absent.txt" in line for line in lines)


@pytest.mark.slow
def test_a_changed_structure_is_refused_with_the_difference(tiny_dataset: Path, tmp_path: Path) -> None:
    short = [f"data.path={tiny_dataset}", "tracking.uri=none", "phases.0.duration.steps=5", "train.eval_rows=1"]
    hierlm("train", TINY, *short, cwd=tmp_path)
    lines = refused("train", TINY, *short, "model.hidden_dim=32", cwd=tmp_path)
    assert any("model.hidden_dim" in line and "32" in line for line in lines)


@pytest.mark.slow
def test_a_dataset_may_move_but_not_change(tiny_dataset: Path, tmp_path: Path) -> None:
    short = ["tracking.uri=none", "train.eval_rows=1", "phases.0.learning_rate.warmup.steps=0"]
    moved = tmp_path / "moved"
    shutil.copytree(tiny_dataset, moved)
    hierlm("train", TINY, f"data.path={tiny_dataset}", *short, "phases.0.duration.steps=4", cwd=tmp_path)
    longer = hierlm("train", TINY, f"data.path={moved}", *short, "phases.0.duration.steps=6", cwd=tmp_path)
    assert "resumed from" in longer.stdout
    text = tmp_path / "other.txt"
    text.write_bytes(bytes(range(256)) * 200)
    hierlm("data", "prepare", "--input", str(text), "--output", "other", "--splits", "valid=0.1", cwd=tmp_path)
    lines = refused("train", TINY, "data.path=other", *short, "phases.0.duration.steps=8", cwd=tmp_path)
    assert any("other: the dataset changed since the run was started" in line for line in lines)


def test_a_misspelled_verb_names_the_nearest(tmp_path: Path) -> None:
    assert "train" in refused("trian", cwd=tmp_path)[0]
