"""The README's commands work as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, hierlm

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for named, text in found if named == language]


def commands(program: str) -> list[list[str]]:
    """The argument lists of one program, comments removed, in the order of the page."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == program]


def test_every_make_target_exists() -> None:
    assert commands("make"), "the README has lost its make commands"
    for target in commands("make"):
        subprocess.run(["make", "--dry-run", *target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.distributed
def test_the_commands_run_in_order(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    found = commands("hierlm")
    assert len(found) >= 6, "the README has lost its commands"
    for arguments in found:
        hierlm(*arguments, cwd=tmp_path)


def test_the_python_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.chdir(ROOT)
    (example,) = blocks("python")
    names: dict[str, object] = {"tokens": torch.randint(0, 256, (2, 17))}
    exec(example, names)
    logits = names["logits"]
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (2, 17, 256)


def test_the_file_tree_names_what_is_there() -> None:
    (tree,) = blocks("")
    top = [line.split()[0] for line in tree.splitlines() if not line.startswith(" ")]
    rooms = [
        f"hierlm/{line.split()[0]}"
        for line in tree.splitlines()
        if line.startswith("  ") and line.split()[0].endswith("/")
    ]
    for name in [*top, *rooms]:
        assert (ROOT / name).is_dir(), name


def test_mlflow_is_told_not_to_count_its_users_wherever_a_page_leads_to_it() -> None:
    pages = [
        ROOT / "README.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
        *ROOT.glob("hierlm/*/README.md"),
    ]
    blocks_of = {page: re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE) for page in pages}
    leading = [
        text for texts in blocks_of.values() for text in texts if re.search(r"^\s*(\w+=\S+ )*mlflow ", text, re.M)
    ]
    assert leading, "no page leads to MLflow any more"
    for text in leading:
        before = text[: re.search(r"\bmlflow (ui|server)", text).start()]  # type: ignore[union-attr]
        assert "MLFLOW_DISABLE_TELEMETRY=true" in before


@pytest.mark.slow
def test_mlflow_counts_no_users_of_ours(tmp_path: Path) -> None:
    program = (
        "import hierlm; from mlflow.telemetry.utils import is_telemetry_disabled; import hierlm.tracking.mlflow; "
        "assert is_telemetry_disabled()"
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}  # under pytest it counts nobody by itself
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
    assert not any("telemetry" in path.name for path in tmp_path.rglob("*"))
