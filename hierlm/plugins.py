"""Choices from outside: Python files given with `--plugin`, and entry points of installed packages.

Such a file has the line `PLUGIN = "KIND.NAME"` and otherwise holds what a file in the kind's package holds
(docs/plugins.md). What a process has taken up is kept here, so that whoever asks for a name finds it.
"""

import ast
import hashlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from hierlm.errors import UserError

GROUP = "hierlm.plugins"
"""Of entry points: `"KIND.NAME" = "module"`, so that names are known before anything of theirs is imported."""

PACKAGES = {
    "architecture": "hierlm.models",
    "objective": "hierlm.objectives",
    "optimizer": "hierlm.optim.optimizers",
    "schedule": "hierlm.phases.schedules",
    "tracker": "hierlm.tracking.trackers",
    "device": "hierlm.plan.devices",
}
"""Kind of a choice -> the package whose files are the choices that come with hierlm."""

MUST_DEFINE = {
    "architecture": ("Config", "layers", "list_length", "num_parameters", "TENSOR_PLAN"),
    "tracker": ("open_tracker",),
    "device": ("device",),
}
"""What is asked of a file before it is used; the contract tests ask the rest."""

_KIND_OF = {package: kind for kind, package in PACKAGES.items()}


@dataclass(frozen=True)
class Plugin:
    """A choice from outside, imported."""

    name: str  # KIND.NAME
    module: ModuleType
    file: str  # absolute
    sha256: str  # of the file's bytes

    @property
    def record(self) -> dict[str, str]:
        """What a run keeps of a plugin, to find it again."""
        return {"name": self.name, "file": self.file, "sha256": self.sha256}


_files: dict[str, Plugin] = {}
_given: set[str] = set()  # names of those in `_files` that the command line named: a recorded file is second to them
_installed: dict[str, Plugin] = {}
_changes: list[str] = []


def give_files(paths: Sequence[str]) -> None:
    """Take up the files that a command line names. UserError for each that is no plugin, or whose name is taken."""
    problems: list[str] = []
    for path in paths:
        try:
            plugin = _from_file(path)
            if plugin.name in _given and _files[plugin.name].file != plugin.file:
                raise UserError(f"{path}: {plugin.name!r} is the name of {_files[plugin.name].file} too; change one")
        except UserError as error:
            problems += [f"--plugin {problem}" for problem in error.problems]
        else:
            _files[plugin.name] = plugin
            _given.add(plugin.name)
    if problems:
        raise UserError(problems)


def take_up(entries: Sequence[Any]) -> list[Any]:
    """Load the plugins of a config, `{name, file, sha256}` or a path each, and tell what is loaded: the files as they
    are now, those that the command line gave among them.

    UserError for a file that is gone or is another plugin now. One that was changed is told on stderr, once. What is
    no entry is given back as it is.
    """
    records = [_taken_up(entry) for entry in entries]
    there = {record["name"] for record in records if isinstance(record, dict) and "name" in record}
    return records + [_files[name].record for name in sorted(_given - there)]


def records() -> list[dict[str, str]]:
    """Of the files taken up: what another process needs to take them up too."""
    return [plugin.record for plugin in _files.values()]


def changes() -> list[str]:
    """One line for each recorded plugin that is not as it was recorded."""
    return list(_changes)


def installed() -> dict[str, dict[str, str]]:
    """What was asked for and found in installed packages: name -> file and checksum. A config records files."""
    return {name: {"file": plugin.file, "sha256": plugin.sha256} for name, plugin in sorted(_installed.items())}


def forget_all() -> None:
    """As in a new process."""
    for known in (_files, _given, _installed, _changes):
        known.clear()


def names_for(package: str) -> list[str]:
    """What plugins add to the choices of a package: none where it is not one of PACKAGES."""
    kind = _KIND_OF.get(package)
    names = (name.partition(".") for name in (*_files, *_entry_points())) if kind else ()
    return [choice for of, _, choice in names if of == kind]


def plugin_for(package: str, choice: str) -> Plugin | None:
    """The plugin of that name; entry points are read when no file has it."""
    name = f"{_KIND_OF.get(package)}.{choice}"
    if name in _files:
        return _files[name]
    if name not in _installed and package in _KIND_OF:
        module = _entry_points().get(name)
        if module is not None:
            _installed[name] = _imported(name, module)
    return _installed.get(name)


def is_own(choice: str, *, package: str) -> bool:
    """Whether a file of the package has the name."""
    return choice.isidentifier() and find_spec(f"{package}.{choice}") is not None


def _entry_points() -> dict[str, str]:
    """Name -> module of all installed packages; scanning them takes a while, so nobody asks without need."""
    from importlib.metadata import entry_points

    found: dict[str, str] = {}
    for point in entry_points(group=GROUP):
        where = f"entry point {point.name!r} of {point.dist.name if point.dist else 'a package'}"
        _require_free(point.name, where=where)
        if found.setdefault(point.name, point.value) != point.value:
            raise UserError(f"{where}: {found[point.name]} has the name too; uninstall one of the packages")
    return found


def _imported(name: str, module_name: str) -> Plugin:
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(f"plugin {name}: {module_name} cannot be imported: {_one_line(error)}") from error
    file = Path(str(module.__file__))
    _require_content(module, name, where=str(file))
    return Plugin(name, module, str(file), hashlib.sha256(file.read_bytes()).hexdigest())


def _taken_up(entry: Any) -> Any:
    record = {"file": entry} if isinstance(entry, str) else entry
    if not isinstance(record, Mapping) or not isinstance(record.get("file"), str):
        return entry
    is_given = record.get("name") in _given
    plugin = _files[record["name"]] if is_given else _from_file(record["file"])
    if record.get("name", plugin.name) != plugin.name:
        raise UserError(f"{plugin.file}: is {plugin.name!r} now, recorded as {record['name']!r}; restore it")
    _tell_change(plugin, recorded=record.get("sha256", plugin.sha256))
    _files[plugin.name] = plugin
    return plugin.record


def _tell_change(plugin: Plugin, *, recorded: str) -> None:
    line = f"plugin {plugin.name} has changed since it was recorded: {plugin.file}, now {plugin.sha256[:12]}"
    if recorded != plugin.sha256 and line not in _changes:
        _changes.append(line)
        print(f"hierlm: {line}", file=sys.stderr)


def _from_file(path: str) -> Plugin:
    file = os.path.abspath(os.path.expanduser(path))
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: no plugin there ({error.strerror}); say where it is with --plugin FILE") from None
    sha256 = hashlib.sha256(content).hexdigest()
    name = _marked_name(content, where=path)
    known = _files.get(name)
    if known is not None and (known.file, known.sha256) == (file, sha256):
        return known
    _require_free(name, where=path)
    if name in _entry_points():
        raise UserError(f"{path}: {name!r} is the name of an installed plugin ({_entry_points()[name]}) too; change it")
    return Plugin(name, _executed(content, file=file, name=name), file, sha256)


def _executed(content: bytes, *, file: str, name: str) -> ModuleType:
    """Under a name of its own in sys.modules, where classes look for their module."""
    module = ModuleType(f"hierlm_plugin_{name.replace('.', '_')}")
    module.__file__ = file
    sys.modules[module.__name__] = module
    try:
        exec(compile(content, file, "exec"), module.__dict__)
    except Exception as error:
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if frame.filename == file]
        where = f"{file}:{lines[-1]}" if lines else file
        raise UserError(f"{where}: cannot be loaded: {_one_line(error)}") from error
    _require_content(module, name, where=file)
    return module


def _marked_name(content: bytes, *, where: str) -> str:
    """What the line `PLUGIN = "KIND.NAME"` says; nothing is executed to know it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{where}: not a Python file: {_one_line(error)}") from None
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["PLUGIN"]:
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            if isinstance(value, str):
                return value
    raise UserError(f'{where}: no line `PLUGIN = "KIND.NAME"`, KIND one of {", ".join(PACKAGES)}')


def _require_free(name: str, *, where: str) -> None:
    """A kind that there is, and a name that is not one of ours."""
    kind, _, choice = name.partition(".")
    package = PACKAGES.get(kind)
    if package is None or find_spec(package) is None or not choice.isidentifier():
        raise UserError(f"{where}: given {name!r}, allowed: KIND.NAME, KIND one of {', '.join(PACKAGES)}")
    if is_own(choice, package=package):
        raise UserError(f"{where}: {choice!r} is the name of the {kind} that comes with hierlm; take another name")


def _require_content(module: ModuleType, name: str, *, where: str) -> None:
    kind = name.partition(".")[0]
    missing = [wanted for wanted in MUST_DEFINE.get(kind, ()) if not hasattr(module, wanted)]
    if missing:
        raise UserError(f"{where}: does not define {', '.join(missing)}, which {kind} plugins have (docs/plugins.md)")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
