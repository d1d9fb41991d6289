"""What every file of the project imports, read from the source, imports inside functions included."""

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.conftest import ROOT

PACKAGES = ("launcher", "hierlm", "data_pipeline")


class Import(NamedTuple):
    """`module` is imported by `file`."""

    file: str  # relative to the repository
    module: str
    is_typing_only: bool  # never happens at run time
    is_lazy: bool  # inside a function: happens when that is called

    def is_of(self, *packages: str) -> bool:
        """Whether the module is one of the packages or inside one."""
        return any(self.module == package or self.module.startswith(f"{package}.") for package in packages)


def modules() -> list[Path]:
    """Every Python file of the project's packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports_of(path: Path) -> Iterator[Import]:
    """All imports of one file; `from a import b` counts as a.b."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = _inside(tree, _is_typing_block)
    lazy = _inside(tree, lambda node: isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    file = str(path.relative_to(ROOT))
    for node in ast.walk(tree):
        for module in _modules_of(node):
            yield Import(file, module, is_typing_only=id(node) in for_types, is_lazy=id(node) in lazy)


@cache
def all_imports() -> list[Import]:
    """Of every file."""
    return [found for path in modules() for found in imports_of(path)]


def _inside(tree: ast.AST, is_outer: Callable[[ast.AST], bool]) -> set[int]:
    """Ids of all nodes inside those that `is_outer` picks."""
    return {id(child) for node in ast.walk(tree) if is_outer(node) for child in ast.walk(node)}


def _is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _modules_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []
