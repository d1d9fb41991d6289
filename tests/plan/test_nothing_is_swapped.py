"""A plan looks on: it replaces nothing of torch or of other rooms, and is built as its parents are."""

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

ROOMS = ("plan", "nn", "models", "costs")
FILES = [path for room in ROOMS for path in sorted((ROOT / "hierlm" / room).rglob("*.py"))]


@pytest.mark.parametrize("source", ["import torch.nn as F\nF.gelu = 1", "from a import b\nb.c, d = 1, 2"])
def test_a_swap_would_be_seen(source: str) -> None:
    assert list(swaps(ast.parse(source)))


def test_no_attribute_of_an_imported_module_or_class_is_replaced() -> None:
    found = [f"{path.relative_to(ROOT)}: {swap}" for path in FILES for swap in swaps(ast.parse(path.read_text()))]
    assert not found, found


def test_a_class_that_skips_its_parent_would_be_seen() -> None:
    assert list(orphans(ast.parse("class A(B):\n    def __init__(self):\n        self.x = 1")))


def test_no_class_skips_the_constructor_of_its_parent() -> None:
    found = [f"{path.relative_to(ROOT)}: {name}" for path in FILES for name in orphans(ast.parse(path.read_text()))]
    assert not found, found


def swaps(tree: ast.Module) -> Iterator[str]:
    """Assignments to attributes of names that an import made."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    imported = {(alias.asname or alias.name).partition(".")[0] for node in imports for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            holder = node.value
            while isinstance(holder, ast.Attribute):
                holder = holder.value
            if isinstance(holder, ast.Name) and holder.id in imported:
                yield ast.unparse(node)


def orphans(tree: ast.Module) -> Iterator[str]:
    """Classes with a parent and a constructor that never calls the parent's."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.bases:
            own = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
            if own is not None and "super().__init__(" not in ast.unparse(own):
                yield node.name
