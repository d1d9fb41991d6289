"""What is found by the name of its file: architectures, optimizers, schedules. Adding one touches no list of names."""

import importlib
import pkgutil
from types import ModuleType


def names_in(package: str, *, besides: frozenset[str] = frozenset()) -> list[str]:
    """Names of the files of a package that are a choice of the user's, sorted; `besides` are the room's other files.

    Files whose name begins with an underscore are the room's own.
    """
    path = importlib.import_module(package).__path__
    return sorted(
        found.name for found in pkgutil.iter_modules(path) if found.name not in besides and found.name[0] != "_"
    )


def module_named(name: str, *, package: str) -> ModuleType:
    """The file of that name. Raises ModuleNotFoundError."""
    return importlib.import_module(f"{package}.{name}")
