"""A choice is a file: put into the package it is found, and the room's other files are not."""

import sys
from pathlib import Path

import pytest

from hierlm.discovery import module_named, names_in


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"choices_{tmp_path.name}"
    folder = tmp_path / name
    folder.mkdir()
    for stem in ("__init__", "second", "first", "config", "_own"):
        (folder / f"{stem}.py").write_text(f"NAME = {stem!r}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return name


def test_every_file_is_a_choice_but_those_of_the_room(package: str) -> None:
    assert names_in(package, besides=frozenset({"config"})) == ["first", "second"]


def test_a_choice_is_its_module(package: str) -> None:
    assert module_named("second", package=package).NAME == "second"
    with pytest.raises(ModuleNotFoundError):
        module_named("third", package=package)
