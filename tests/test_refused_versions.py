"""Packages that compute wrong are refused by name, and every floor of pyproject.toml is a version that was run."""

import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NoReturn

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from hierlm.errors import UserError
from hierlm.refused_versions import REFUSED, refuse_wrong_versions, version_problems
from launcher import doctor, preflight
from tests.config.making import config
from tests.conftest import ROOT, hierlm, quiet_environment

RUN_WITH_BESIDES_THE_PINS = {"deepspeed": "0.19.3"}
"""Package -> the oldest release that tests/distributed were run with (2026-11-28: layout equality with pipelines, three
stages and eight micro-batches, skipped steps)."""


@pytest.mark.parametrize("installed", ["0.19.0", "0.19.1", "0.19.2", "0.19.2+cu126"])
def test_a_release_of_the_table_is_refused_in_one_line_that_says_why_and_what_to_do(installed: str) -> None:
    (line,) = version_problems(version_of=lambda package: {"deepspeed": installed}[package])
    assert line.startswith(f"deepspeed {installed} is installed")
    for word in ("micro-batches", "DeepSpeed#8152", "pip install 'deepspeed>=0.19.3,<=0.19.8'"):
        assert word in line


@pytest.mark.parametrize("installed", ["0.18.9", "0.19.3", "0.19.8", "0.20.0", "not a version"])
def test_others_are_not(installed: str) -> None:
    assert version_problems(version_of=lambda package: installed) == []


def test_a_package_that_is_not_there_is_not_wrong() -> None:
    def absent(package: str) -> NoReturn:
        raise PackageNotFoundError(package)

    assert version_problems(version_of=absent) == []


@pytest.fixture
def old_deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose metadata say that DeepSpeed 0.19.2 is installed; first on every path."""
    folder = tmp_path / "packages"
    metadata = folder / "deepspeed-0.19.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.19.2\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def test_whatever_starts_or_looks_asks(old_deepspeed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"deepspeed 0\.19\.2 is installed, which trains wrong"):
        refuse_wrong_versions()
    with pytest.raises(UserError, match=r"deepspeed 0\.19\.2"):
        preflight.refuse_what_cannot_run(config(tmp_path))
    found = doctor.versions()
    assert found.state == "wrong" and "DeepSpeed#8152" in found.detail


@pytest.mark.parametrize("verb", ["train", "submit"])
def test_no_verb_starts_with_it(verb: str, old_deepspeed: Path, tmp_path: Path) -> None:
    assert quiet_environment()["PYTHONPATH"] == str(old_deepspeed)
    done = hierlm(verb, ROOT / "configs" / "tiny" / "transformer.yaml", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "deepspeed 0.19.2 is installed" in line], done.stderr
    assert not (tmp_path / "runs").exists()


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    return [found for words in lists for word in words if (found := Requirement(word)).name != "hierlm"]


def pins() -> dict[str, str]:
    lines = [line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    return {normal(name): version for name, equals, version in lines if not name.startswith("#")}


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_every_floor_is_a_version_that_was_run_and_every_pin_is_allowed(requirement: Requirement) -> None:
    name, pinned = normal(requirement.name), pins()[normal(requirement.name)]
    (floor,) = [part.version for part in requirement.specifier if part.operator == ">="]
    assert Version(floor) == Version(RUN_WITH_BESIDES_THE_PINS.get(name, pinned))
    assert requirement.specifier.contains(pinned)
    for row in REFUSED:
        if row.package == name:
            assert not version_problems(version_of=lambda package: floor)
