"""What must answer on a login node does not import torch, deepspeed, megatron or mlflow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.making import write

HEAVY = ("torch", "deepspeed", "megatron", "mlflow")
SLOW = (*HEAVY, "pydantic", "yaml", "omegaconf", "typer", "numpy")
"""Not imported by an answer that reads nothing: with pydantic and what led to it `--help` took 0.2 s, not 0.05."""

RUN_AND_TELL = """
import json, sys
from launcher.cli import run
code = run(json.loads(sys.argv[1]))
heavy = sorted({name.partition(".")[0] for name in sys.modules} & set(json.loads(sys.argv[2])))
print(json.dumps({"code": code, "heavy": heavy}))
"""


def imported_by(*arguments: object, cwd: Path, heavy: tuple[str, ...] = HEAVY) -> tuple[int, list[str]]:
    """(exit code, heavy packages imported) of one command line in a fresh process."""
    words = json.dumps([str(argument) for argument in arguments])
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_TELL, words, json.dumps(heavy)],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
    )
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["code"], answer["heavy"]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["models"], ["submit", "--help"], ["train", "--help"]]
)
def test_help_and_models_are_light(arguments: list[str], tmp_path: Path) -> None:
    assert imported_by(*arguments, cwd=tmp_path) == (0, [])


def test_a_dry_run_is_light(tmp_path: Path) -> None:
    assert imported_by("submit", write(tmp_path), "--dry-run", cwd=tmp_path) == (0, [])


@pytest.mark.parametrize("words", [["train"], ["plan"], ["submit"], ["submit", "--dry-run"]])
def test_first_weights_that_are_not_there_are_refused_lightly(words: list[str], tmp_path: Path) -> None:
    verb, *options = words
    arguments = [verb, write(tmp_path), "init_from.path=runs/none", *options]
    assert imported_by(*arguments, cwd=tmp_path) == (2, [])


@pytest.mark.parametrize("verb", ["train", "submit"])
@pytest.mark.parametrize("override", ["model.num_layer=3", "parallel.data_parallel_degree=3", "data.path=/no/data"])
def test_a_wrong_config_or_dataset_is_refused_lightly(verb: str, override: str, tmp_path: Path) -> None:
    assert imported_by(verb, write(tmp_path), override, cwd=tmp_path) == (2, [])


def test_the_measurement_would_see_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import torch\n" + RUN_AND_TELL, '["--help"]', json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert json.loads(done.stdout.splitlines()[-1])["heavy"] == ["torch"]


@pytest.mark.parametrize("arguments", [("--help",), ("tarin",)])
def test_help_and_a_typo_are_answered_at_once(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert imported_by(*arguments, cwd=tmp_path, heavy=SLOW)[1] == []
