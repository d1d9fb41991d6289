"""What is found by name: a file of a package, a file given with `--plugin`, an entry point of an installed package.

Adding a choice touches no list of names. Which packages may be added to from outside: `hierlm.plugins.PACKAGES`.
"""

import importlib
import pkgutil
from types import ModuleType

from hierlm import plugins


def names_in(package: str, *, besides: frozenset[str] = frozenset()) -> list[str]:
    """Names that the user may choose, sorted: the files of a package and what plugins add; `besides` are the room's
    other files.

    Files whose name begins with an underscore are the room's own. UserError where a plugin has a name of ours.
    """
    path = importlib.import_module(package).__path__
    own = (found.name for found in pkgutil.iter_modules(path) if found.name not in besides and found.name[0] != "_")
    return sorted({*own, *plugins.names_for(package)})


def is_named(name: object, *, package: str, besides: frozenset[str] = frozenset()) -> bool:
    """Whether there is such a choice; entry points are read only where no file has the name."""
    if not isinstance(name, str) or name in besides:
        return False
    return plugins.is_own(name, package=package) or plugins.plugin_for(package, name) is not None


def module_named(name: str, *, package: str) -> ModuleType:
    """The module of that name. Raises ModuleNotFoundError; UserError for a plugin that cannot be imported."""
    plugin = None if plugins.is_own(name, package=package) else plugins.plugin_for(package, name)
    return importlib.import_module(f"{package}.{name}") if plugin is None else plugin.module
