"""Other packages' insides are touched in hierlm/parallel/seams alone: nobody else imports, reads or sets them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.imports import all_imports
from tests.conftest import ROOT

ROOM = ROOT / "hierlm" / "parallel"
SEAMS = ROOM / "seams"

IMPORTERS = ("hierlm/parallel/light_imports.py", "hierlm/parallel/light_megatron.py")
"""They import both packages for the seams, without what these import along; torch's `compile` is another meanwhile."""

FILES = [path for path in sorted(ROOM.rglob("*.py")) if SEAMS not in path.parents]

HUNG = ("ds_", "tensor_model_parallel", "partition_dim", "_")
"""How names begin that others hang on parameters and gradients; in strings, as `getattr` takes them."""

OWN = {
    "compile",
    "entropies",
    "part",
    "group",
    "soft_cap",
    "weight",
    "bias",
    "data",
    "grad",
    "sum_over_ranks",
    "share",
    "shares",
    "whole",
    "number",
    "local_layers",
    "inputs",
    "beside",
    "door",
    "gradients",
    "place",
    "parts",
    "count",
}
"""What is set on objects of torch and of ours: on sites, slices, parameters and contexts of autograd."""


@pytest.mark.parametrize("package", ["deepspeed", "megatron"])
def test_the_seams_alone_import_the_engines(package: str) -> None:
    found = [f"{f.file} imports {f.module}" for f in all_imports() if f.is_of(package) and not _is_allowed(f.file)]
    assert found == []


def test_the_seams_alone_import_private_torch() -> None:
    found = [
        f"{one.file} imports {one.module}"
        for one in all_imports()
        if one.is_of("torch") and "._" in one.module and one.file.startswith("hierlm/parallel/")
        if not _is_allowed(one.file)
    ]
    assert found == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_private_name_of_another_is_touched(path: Path) -> None:
    assert [f"{path.name}:{line} {name}" for line, name in private_names(ast.parse(path.read_text()))] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_set_on_others_is_listed(path: Path) -> None:
    """Engines and optimizers of DeepSpeed are met as handles, so that setting a listed name goes through its seam."""
    settable = set(settable_names())
    assert {"micro_steps", "overflow"} <= settable
    found = [name for name in names_set_on_others(ast.parse(path.read_text())) if name not in settable | OWN]
    assert found == []


def test_these_tests_would_see_it() -> None:
    tree = ast.parse(
        "class A:\n def f(self):\n  self._own = engine._config.steps\n  self._theirs\n  getattr(p, 'ds_tensor')\n"
        "engine.micro_step = 0\nengine.a, self.b = 1, 2\nsuper()._partition()\n"
    )
    assert sorted(name for _, name in private_names(tree)) == ["_config", "_theirs", "ds_tensor"]
    assert list(names_set_on_others(tree)) == ["micro_step", "a"]


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name): private attributes of others, of `self` where nobody here has set them, and in strings."""
    own = {node.attr for node in ast.walk(tree) if _is_of_self(node) and isinstance(node.ctx, ast.Store)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            if not _is_of_super(node) and not (_is_of_self(node) and node.attr in own):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _BY_STRING:
            words = (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
            yield from ((node.lineno, word) for word in words if word.startswith(HUNG) and word != "_fields")


_BY_STRING = ("getattr", "setattr", "hasattr", "delattr")


def names_set_on_others(tree: ast.AST) -> Iterator[str]:
    """Attributes that are assigned on anything but `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del) and not _is_of_self(node):
            yield node.attr


def settable_names() -> Iterator[str]:
    """Python names of `Written` and `Replaced` in the lists, read from the source."""
    for path in SEAMS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                kind = node.value.func.value if isinstance(node.value.func, ast.Subscript) else node.value.func
                if isinstance(kind, ast.Name) and kind.id in ("Written", "Replaced"):
                    yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def _is_allowed(file: str) -> bool:
    return file.startswith("hierlm/parallel/seams/") or file in IMPORTERS


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def _is_of_self(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _is_of_super(node: ast.Attribute) -> bool:
    call = node.value
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "super"
