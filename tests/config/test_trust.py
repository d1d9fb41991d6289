"""A config may be somebody else's: it runs no command, carries no variable away, and nothing secret is kept in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_pipeline.errors import DataError
from data_pipeline.read.split import open_split
from data_pipeline.remote import open_remote, read_file
from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.models import from_config
from launcher.provenance import collect
from tests.config.making import mapping, write
from tests.conftest import hierlm

SECRET = "s3cr3t-X9"


def refused(folder: Path, changes: dict[str, Any]) -> str:
    with pytest.raises(UserError) as found:
        load_config(write(folder, changes))
    assert len(found.value.problems) == 1 and len(str(found.value).splitlines()) == 1
    assert SECRET not in str(found.value)
    return str(found.value)


@pytest.mark.parametrize("path", ["pipe:touch {}", " pipe:touch {}", "pipe:"])
def test_a_config_runs_no_command(path: str, tmp_path: Path) -> None:
    path = path.format(tmp_path / "mark")
    for data in ({"path": path}, {"sources": [{"path": path}, {"path": "data/other"}]}):
        assert "`hierlm data prepare --input` alone" in refused(tmp_path, {"data": data})
    for read in (lambda: open_split(path, "train"), lambda: read_file(path, "x"), lambda: open_remote(path)):
        with pytest.raises(DataError, match="`hierlm data prepare --input` alone"):
            read()
    assert not (tmp_path / "mark").exists()


def test_one_address_is_not_read_through_another(tmp_path: Path) -> None:
    assert "one address" in refused(tmp_path, {"data": {"path": "reference://::https://host/refs.json"}})
    with pytest.raises(DataError, match="an address is one"):
        open_remote("reference://::https://127.0.0.1:1/refs.json")


@pytest.mark.slow
@pytest.mark.parametrize("words", [("eval", "runs/run"), ("generate", "runs/run", "--prompt", "x"), ("data", "verify")])
def test_no_verb_runs_the_command_of_a_runs_config(words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    command = f"pipe:touch {tmp_path / 'mark'}"
    write(tmp_path / "runs" / "run", {"data": {"path": command}})
    done = hierlm(*words, *([command] if words[0] == "data" else []), cwd=tmp_path, check=False)
    refusals = [line for line in done.stderr.splitlines() if "`hierlm data prepare --input` alone" in line]
    assert done.returncode == 2 and len(refusals) == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "mark").exists()


ADDRESSES = [f"https://me:{SECRET}@host", f"http://{SECRET}@host:5000", f"mysql://host/db?password={SECRET}"]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("kind", ["mlflow", "another"])
def test_a_trackers_address_holds_no_secret(address: str, kind: str, tmp_path: Path) -> None:
    line = refused(tmp_path, {"tracking": {"kind": kind, "uri": address}}) if kind == "mlflow" else None
    assert line is None or ("MLFLOW_TRACKING_USERNAME" in line and "MLFLOW_TRACKING_PASSWORD" in line)
    with pytest.raises(UserError) as typed:
        load_config(write(tmp_path), [f"tracking.uri={address}"])
    assert SECRET not in str(typed.value)


def test_an_address_of_data_holds_no_secret(tmp_path: Path) -> None:
    assert "AWS_ACCESS_KEY_ID" in refused(tmp_path, {"data": {"path": f"https://me:{SECRET}@host/data"}})


def test_the_command_line_is_kept_without_secrets() -> None:
    kept = collect(["hierlm", "train", "c.yaml", f"tracking.uri=https://me:{SECRET}@host", f"x.password={SECRET}"])
    assert SECRET not in kept["command_line"] and "hierlm train c.yaml" in kept["command_line"]


READERS = [
    "${oc.env:MINE}",
    "${oc.env:MINE,none}",
    "a ${oc.env:MINE} b",
    "${oc.${word}:MINE}",
    "${oc.decode:${oc.env:MINE}}",
]


@pytest.mark.parametrize("text", READERS)
def test_a_variable_is_given_only_where_it_is_listed(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", SECRET)
    changes = {"tracking": {"experiment": text.replace("${word}", "${tracking.sweep}"), "sweep": "env"}}
    line = refused(tmp_path, changes)
    assert "tracking.experiment" in line and "reads the environment variable MINE" in line and "HIERLM_ENV=MINE" in line
    monkeypatch.setenv("HIERLM_ENV", "OTHER")
    assert "HIERLM_ENV=OTHER,MINE" in refused(tmp_path, changes)
    monkeypatch.setenv("HIERLM_ENV", "OTHER, MINE")
    assert SECRET in load_config(write(tmp_path, changes)).tracking.experiment


def test_the_words_of_a_command_line_are_a_config_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", SECRET)
    with pytest.raises(UserError, match="HIERLM_ENV=MINE"):
        load_config(write(tmp_path), ["tracking.experiment=${oc.env:MINE}"])


def test_a_model_is_made_of_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERS", "2")
    part = {**mapping()["model"], "num_layers": "${oc.decode:${oc.env:LAYERS}}"}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": part}))
    with pytest.raises(Exception, match="HIERLM_ENV=LAYERS"):
        from_config(tmp_path / "model.yaml")
    monkeypatch.setenv("HIERLM_ENV", "LAYERS")
    assert from_config(tmp_path / "model.yaml").layers


@pytest.mark.slow
def test_a_prepared_dataset_does_not_tell_the_secrets_of_its_inputs(tmp_path: Path) -> None:
    command = f"pipe:MINE={SECRET} sh -c 'echo Authorization: {SECRET} >/dev/null; seq 20000'"
    done = hierlm("data", "prepare", "--input", command, "--output", "d", cwd=tmp_path)
    again = hierlm("data", "prepare", "--input", command, "--output", "d", cwd=tmp_path)
    shown = hierlm("data", "inspect", "d", "--json", cwd=tmp_path)
    failed = hierlm(
        "data", "prepare", "--input", f"pipe:MINE={SECRET} exit 3", "--output", "e", cwd=tmp_path, check=False
    )
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert failed.returncode == 2 and "exit code 3" in failed.stderr
    assert not any(SECRET.encode() in content for content in written)
    assert not any(SECRET in text for each in (done, again, shown, failed) for text in (each.stdout, each.stderr))
    assert "MINE=***" in json.dumps(json.loads(shown.stdout)["made"])
