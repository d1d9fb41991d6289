"""Where first weights come from is found without torch, and what is not there is said in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hierlm.checkpoint.config import InitFromConfig
from hierlm.checkpoint.weight_source import find_source, source_problems
from hierlm.errors import UserError
from hierlm.run_dir import RunDir
from tests.checkpoint.making import save


def found(path: Path | str, root: Path, checkpoint: int | None = None):  # type: ignore[no-untyped-def]
    return find_source(InitFromConfig(path=str(path), checkpoint=checkpoint), run_root=root)


def refused(path: Path | str, root: Path, checkpoint: int | None = None) -> str:
    with pytest.raises(UserError) as error:
        found(path, root, checkpoint)
    (line,) = error.value.problems
    assert "\n" not in line
    return line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "runs" / "first"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("model: {vocab_size: 300}\n")
    for step in (10, 20):
        save(run / "checkpoints", step)
    return run


def sharded(folder: Path) -> Path:
    folder.mkdir()
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(4)}
    for number, (name, tensor) in enumerate(tensors.items()):
        save_file({name: tensor}, folder / f"model-{number}.safetensors")
    places = {"a": "model-0.safetensors", "b": "model-1.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_a_run_is_found_by_its_path_and_by_its_name(run: Path, tmp_path: Path) -> None:
    for path in (run, "first"):
        assert found(path, run.parent).listed.step == 20
        assert found(path, run.parent, 10).listed.step == 10
    assert "allowed: a step" in refused(run, tmp_path, 15) and "10, 20" in refused(run, tmp_path, 15)
    assert "nearest: " + str(run) in refused("fist", run.parent)
    (run.parent / "new").mkdir()
    (run.parent / "new" / "config.yaml").write_text("name: new\n")
    assert "no checkpoint to begin with" in refused("new", run.parent)
    assert "give its run" in refused(run / "checkpoints" / "step-00000010", tmp_path)


def test_files_and_folders_of_safetensors_are_found(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "shards")
    for path in (folder, folder / "model.safetensors.index.json"):
        assert {name: stored.shape for name, stored in found(path, tmp_path).tensors.items()} == {
            "a": (2, 3),
            "b": (4,),
        }
    (tmp_path / "one").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "one" / "model.safetensors")
    for path in (tmp_path / "one", tmp_path / "one" / "model.safetensors"):
        assert list(found(path, tmp_path).tensors) == ["a"]
        assert "that is no run" in refused(path, tmp_path, 3)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "weights.pkl"])
def test_pickles_are_refused_with_the_remedy_and_not_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    for path in (tmp_path, tmp_path / name):
        assert "is a pickle" in refused(path, tmp_path) and "save_file" in refused(path, tmp_path)


def test_what_holds_no_weights_is_told_with_what_is_allowed(tmp_path: Path) -> None:
    assert "where nothing is" in refused("nowhere", tmp_path)
    (tmp_path / "x").mkdir()
    assert "holds no weights (empty)" in refused(tmp_path / "x", tmp_path)
    (tmp_path / "x" / "readme.txt").write_text("hello")
    assert "holds no weights (readme.txt)" in refused(tmp_path / "x", tmp_path)
    assert "no safetensors file" in refused(tmp_path / "x" / "readme.txt", tmp_path)


@pytest.mark.parametrize(
    ("index", "why"),
    [
        ("[]", "no weight_map"),
        ("{", "no index"),
        ('{"weight_map": {"a": 3}}', "no weight_map"),
        ('{"weight_map": {"a": "../model-0.safetensors"}}', "no index"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "no index"),
        ('{"weight_map": {"a": "model-7.safetensors"}}', "is not there"),
        ('{"weight_map": {"b": "model-0.safetensors"}}', "does not hold b"),
    ],
)
def test_an_index_is_not_believed(index: str, why: str, tmp_path: Path) -> None:
    folder = sharded(tmp_path / "shards")
    (folder / "model.safetensors.index.json").write_text(index)
    assert why in refused(folder, tmp_path)


def test_a_run_with_checkpoints_of_its_own_needs_its_source_no_more(run: Path, tmp_path: Path) -> None:
    gone = InitFromConfig(path="gone")
    new = RunDir(run.parent / "second")
    assert source_problems(None, run=new, vocab_size=256) == []
    assert "where nothing is" in source_problems(gone, run=new, vocab_size=256)[0]
    assert source_problems(gone, run=RunDir(run), vocab_size=256) == []


def test_another_vocabulary_is_seen_beforehand(run: Path) -> None:
    new, words = RunDir(run.parent / "second"), {"path": str(run)}
    (line,) = source_problems(InitFromConfig.model_validate(words), run=new, vocab_size=256)
    assert "a vocabulary of 300 tokens, model.vocab_size is 256" in line
    assert source_problems(InitFromConfig.model_validate(words), run=new, vocab_size=300) == []
    excluding = InitFromConfig.model_validate({**words, "exclude": ["layers.0"]})
    assert source_problems(excluding, run=new, vocab_size=256) == []


def test_looking_imports_no_torch() -> None:
    code = "import sys, hierlm.checkpoint.weight_source; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
