"""`hierlm checkpoint ...` on a run, as a user and as a script would call it."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hierlm import models
from hierlm.checkpoint.canonical import read_canonical
from hierlm.checkpoint.commit import save_checkpoint
from hierlm.checkpoint.layout import step_dir
from hierlm.checkpoint.team import ALONE
from hierlm.config.load import load_config
from hierlm.durable import hash_file
from tests.checkpoint.layouts import CONFIG, overrides, train_and_save
from tests.checkpoint.making import facts
from tests.conftest import ROOT, hierlm
from tests.distributed.spawn import run_ranks

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/small`: two checkpoints of a tiny transformer-xl with tied embeddings."""
    root = tmp_path_factory.mktemp("verbs")
    settings = overrides(more=("model.tie_embeddings=true",))
    run_ranks(train_and_save, 1, "transformer_xl", settings, str(root / "saved"))

    def write(partial: Path) -> dict[str, Any]:
        shutil.copytree(root / "saved" / "engine", partial / "engine", dirs_exist_ok=True)
        return {f"engine/{file.name}": hash_file(file) for file in (partial / "engine").iterdir()}

    run = root / "runs" / "small"
    for step in (2, 3):
        save_checkpoint(run / "checkpoints", facts=facts(step), write=write, team=ALONE, keep=2)
    config = load_config(str(ROOT / CONFIG.format(arch="transformer_xl")), settings)
    (run / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path


def answer(*arguments: object, cwd: Path) -> Any:
    return json.loads(hierlm("checkpoint", *arguments, "--json", cwd=cwd).stdout)


def refused(*arguments: object, cwd: Path) -> str:
    done: subprocess.CompletedProcess[str] = hierlm("checkpoint", *arguments, cwd=cwd, check=False)
    assert done.returncode == 2 and done.stdout == "", done
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_list_and_inspect_tell_what_there_is(root: Path) -> None:
    listed = answer("list", "runs/small", cwd=root)
    assert [(row["step"], row["problem"], row["phase"]) for row in listed] == [
        (2, None, "pretrain"),
        (3, None, "pretrain"),
    ]
    lines = hierlm("checkpoint", "list", "runs/small", cwd=root).stdout.splitlines()
    assert len(lines) == 2 and "192 tokens" in lines[1]
    inspected = answer("inspect", "runs/small", "--checkpoint", 2, cwd=root)
    assert inspected["step"] == 2 and inspected["layout"]["zero_stage"] == 1
    assert sum(record["size_bytes"] for record in inspected["files"].values()) == inspected["size_bytes"]
    assert "ZeRO-1" in hierlm("checkpoint", "inspect", "runs/small", cwd=root).stdout


@pytest.mark.slow
def test_verify_finds_one_flipped_byte(root: Path) -> None:
    assert [row["good"] for row in answer("verify", "runs/small", cwd=root)] == [True, True]
    victim = next((step_dir(root / "runs" / "small" / "checkpoints", 3) / "engine").iterdir())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    done = hierlm("checkpoint", "verify", "runs/small", cwd=root, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "step 2: good",
        f"step 3: engine/{victim.name}: content differs from its checksum",
    ]
    assert hierlm("checkpoint", "verify", "runs/small", "--checkpoint", 2, cwd=root).returncode == 0
    assert answer("digest", "runs/small", cwd=root)["step"] == 2  # the newest good one
    assert "step-00000003 is damaged" in refused("digest", "runs/small", "--checkpoint", 3, cwd=root)


@pytest.mark.slow
def test_digest_is_one_document_of_three_fields(root: Path) -> None:
    document = answer("digest", "runs/small", cwd=root)
    assert document.keys() == {"step", "weights_sha256", "optimizer_sha256"} and document["step"] == 3
    assert all(len(document[key]) == 64 for key in ("weights_sha256", "optimizer_sha256"))
    text = hierlm("checkpoint", "digest", "runs/small", cwd=root).stdout
    assert document["weights_sha256"] in text and document["optimizer_sha256"] in text


def test_what_is_exported_is_the_trained_model(root: Path) -> None:
    document = answer("export", "runs/small", "--output", "exported/small", cwd=root)
    exported = root / "exported" / "small"
    assert sorted(path.name for path in exported.iterdir()) == ["config.yaml", "model.safetensors"]
    state = read_canonical(step_dir(root / "runs" / "small" / "checkpoints", 3) / "engine")
    tensors = load_file(exported / "model.safetensors")
    assert sorted(tensors) == state.names
    assert all(torch.equal(tensors[name], state.tensor(name, "fp32")) for name in state.names)
    assert document["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    model = models.load(exported)
    assert not model.training
    trained = dict(model.named_parameters())
    assert trained.keys() == tensors.keys() and all(torch.equal(trained[name], tensors[name]) for name in tensors)
    logits, _ = model(torch.arange(20).view(2, 10))
    assert logits.shape == (2, 10, 256) and torch.isfinite(logits).all()
    fresh = models.from_config(exported / "config.yaml")
    assert not torch.equal(fresh(torch.arange(10).view(1, 10))[0], logits[:1])


@pytest.mark.slow
def test_a_reshape_is_made_once_and_is_what_a_load_will_find(root: Path) -> None:
    words = ("reshape", "runs/small", "--data-parallel-degree", 4, "--zero-stage", 2)
    document = answer(*words, cwd=root)
    assert document["step"] == 3 and document["to"] == "dp 4 x tp 1 x pp 1, ZeRO-2"
    assert document["converted"] == "runs/small/checkpoints/step-00000003.universal"
    folder = root / document["converted"]
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    told = hierlm("checkpoint", *words, cwd=root)
    assert told.stdout == f"step 3: dp 2 x tp 1 x pp 1, ZeRO-1 -> {document['to']}: {document['converted']}\n"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == made
    same = answer("reshape", "runs/small", "--data-parallel-degree", 2, "--zero-stage", 1, "--checkpoint", 2, cwd=root)
    assert same["converted"] is None and same["step"] == 2


def test_an_impossible_layout_is_refused_before_any_work(root: Path) -> None:
    before = sorted((root / "runs" / "small" / "checkpoints").iterdir())
    words = ("checkpoint", "reshape", "runs/small", "--tensor-parallel-degree", 3)
    done = hierlm(*words, cwd=root, check=False)
    assert done.returncode == 2 and done.stdout == ""
    for field, line in zip(("num_heads", "ffn_dim"), done.stderr.splitlines(), strict=True):
        assert f"parallel.tensor_parallel_degree: given 3, allowed: a divisor of model.{field}" in line
    assert "parallel.zero_stage" in refused(
        "reshape", "runs/small", "--pipeline-parallel-degree", 2, "--zero-stage", 3, cwd=root
    )
    assert "give at least one of" in refused("reshape", "runs/small", cwd=root)
    assert sorted((root / "runs" / "small" / "checkpoints").iterdir()) == before


@pytest.mark.slow
def test_an_export_of_other_weights_is_refused(root: Path) -> None:
    hierlm("checkpoint", "export", "runs/small", "--output", "exported", cwd=root)
    config = root / "exported" / "config.yaml"
    good = config.read_text()
    config.write_text(good.replace("tie_embeddings: true", "tie_embeddings: false"))
    with pytest.raises(ValueError, match=r"not the weights of its config\.yaml"):
        models.load(root / "exported")
    config.write_text(good.replace("ffn_dim: 256", "ffn_dim: 128"))
    with pytest.raises(ValueError, match=r"has shape \[256"):
        models.load(root / "exported")
    config.unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.yaml"):
        models.load(root / "exported")


@pytest.mark.slow
def test_wrong_input_is_one_line(root: Path) -> None:
    assert "neither a run directory" in refused("list", "runs/absent", cwd=root)
    assert "no checkpoint of step 9; there are: 2, 3" in refused("digest", "runs/small", "--checkpoint", 9, cwd=root)
    (root / "taken").mkdir()
    (root / "taken" / "thesis.txt").write_text("mine")
    assert "holds other files" in refused("export", "runs/small", "--output", "taken", cwd=root)
    assert "is a file" in refused("export", "runs/small", "--output", "taken/thesis.txt", cwd=root)
    shutil.rmtree(root / "runs" / "small" / "checkpoints")
    assert "no checkpoint yet" in refused("digest", "runs/small", cwd=root)
    assert "no checkpoint yet" in hierlm("checkpoint", "list", "runs/small", cwd=root).stdout
