"""What a run has begun with is written down, shown by trackers, and not begun with again as something else."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hierlm.checkpoint.team import ALONE
from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.models.assembly import canonical_shapes
from hierlm.run_dir import RunDir
from hierlm.tracking.params import flatten
from hierlm.train.first_weights import _found, _write_down, recorded, refuse_what_does_not_fit
from hierlm.train.setup import _as_parameters
from tests.checkpoint.making import on_every_rank

TINY = ["model.num_layers=1", "model.hidden_dim=16", "model.num_heads=2", "model.ffn_dim=32"]


def config(folder: Path, *words: str) -> Any:
    path = "configs/tiny/transformer.yaml"
    return load_config(path, [*TINY, f"run_root={folder}", f"init_from.path={folder / 'source'}", *words])


def run_of(folder: Path) -> RunDir:
    run = RunDir(folder / "run")
    run.path.mkdir(exist_ok=True)
    run.provenance.write_text('{"git": null, "resumes": []}\n')
    return run


def make_source(folder: Path, *, files: int, value: float = 1.0) -> list[Path]:
    tensors = {n: torch.full(s, value) for n, s in canonical_shapes(config(folder).model).items()}
    place = folder / "source"
    place.mkdir(exist_ok=True)
    if files == 1:
        save_file(tensors, place / "model.safetensors")
        return [place / "model.safetensors"]
    names = [f"model-{number}.safetensors" for number in range(files)]
    where = {name: names[number % files] for number, name in enumerate(tensors)}
    for file in names:
        save_file({name: tensor for name, tensor in tensors.items() if where[name] == file}, place / file)
    (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return [place / name for name in names]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("files", [1, 3])
def test_the_record_holds_the_checksum_that_sha256sum_gives(files: int, tmp_path: Path) -> None:
    made = make_source(tmp_path, files=files)
    asked, run = config(tmp_path), run_of(tmp_path)
    lines = "".join(f"{sha256(path.read_bytes())}  {path.name}\n" for path in made)
    expected = sha256(made[0].read_bytes()) if files == 1 else sha256(lines.encode())
    for found in on_every_rank(2, lambda team: _found(asked, run, team=team, say=lambda line: None)):
        assert found.record["sha256"] == expected and found.record["path"] == str(tmp_path / "source")
        assert found.record["taken"] == len(canonical_shapes(asked.model)) and found.record["drawn"] == []


def test_what_is_written_down_is_kept_beside_the_rest_and_shown_by_trackers(tmp_path: Path) -> None:
    run, record = run_of(tmp_path), {"path": "/x", "step": 40, "sha256": "ab", "taken": 3, "drawn": []}
    assert recorded(run) is None
    _write_down(run, record)
    assert json.loads(run.provenance.read_text()) == {"git": None, "resumes": [], "init_from": record}
    base: Any = SimpleNamespace(config=config(tmp_path), run_dir=run)
    shown = flatten(_as_parameters(base))
    assert shown["init_from.sha256"] == "ab" and shown["init_from.step"] == "40"
    assert shown["init_from.path"] == str(tmp_path / "source")
    run.provenance.write_text("[")
    assert recorded(run) is None
    _write_down(run, record)
    assert recorded(run) == record


def test_a_source_that_has_changed_before_the_first_checkpoint_is_refused(tmp_path: Path) -> None:
    make_source(tmp_path, files=1)
    asked, run = config(tmp_path), run_of(tmp_path)
    _write_down(run, _found(asked, run, team=ALONE, say=lambda line: None).record)
    assert _found(asked, run, team=ALONE, say=lambda line: None).record == recorded(run)
    make_source(tmp_path, files=1, value=2.0)
    for answer in on_every_rank(2, lambda team: _found(asked, run, team=team, say=lambda line: None)):
        assert isinstance(answer, UserError) and "has changed since" in str(answer)


def test_a_source_that_is_not_there_is_one_error_on_every_rank(tmp_path: Path) -> None:
    asked, run = config(tmp_path), run_of(tmp_path)
    answers = on_every_rank(3, lambda team: _found(asked, run, team=team, say=lambda line: None))
    assert all(isinstance(answer, UserError) for answer in answers) and len(set(map(str, answers))) == 1


def test_integers_are_no_weights(tmp_path: Path) -> None:
    make_source(tmp_path, files=1)
    tensors = {n: torch.ones(s) for n, s in canonical_shapes(config(tmp_path).model).items()}
    tensors["layers.0.tokens.weight"] = tensors["layers.0.tokens.weight"].to(torch.int32)
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    with pytest.raises(UserError, match=r"tokens\.weight is of type I32, allowed: F64"):
        refuse_what_does_not_fit(config(tmp_path))
