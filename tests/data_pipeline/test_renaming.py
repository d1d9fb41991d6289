"""Every file that gets its name by a rename keeps it where a network file system answers the repeat of the request."""

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.renaming import rename
from tests.conftest import ROOT
from tests.data_pipeline.making import prepared

RENAMING = "data_pipeline/renaming.py"


def test_a_dataset_is_prepared_where_every_rename_is_answered_as_its_repeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_rename, names = os.rename, set[str]()

    def answered_twice(source: Path, target: Path) -> None:
        really_rename(source, target)
        names.add(Path(target).name)
        os.stat(source)

    monkeypatch.setattr(os, "rename", answered_twice)
    prepared(tmp_path / "d", b"a text of some length\n" * 400, splits="valid=0.2", workers=1, shard_tokens=4000)
    assert {"dataset.json", "shard-000000.tar"} <= names


def test_what_was_not_renamed_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rename(tmp_path / "nothing", tmp_path / "x")


def test_nobody_renames_in_another_way() -> None:
    """`path.replace(target)` has one argument, that of a text two."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ("hierlm", "launcher", "data_pipeline")
        for path in sorted((ROOT / room).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() != RENAMING
        for line in renames(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, found


def renames(tree: ast.AST) -> Iterator[int]:
    """Lines with a call that is a rename."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of_os = isinstance(node.func.value, ast.Name) and node.func.value.id in ("os", "shutil")
            name, count = node.func.attr, len(node.args)
            if (of_os and name in ("rename", "replace", "renames", "move")) or (
                not of_os and name in ("rename", "replace") and count == 1 and not node.keywords
            ):
                yield node.lineno
