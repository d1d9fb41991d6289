"""One name of another package that we depend on, and what is said where it is missing."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from inspect import getattr_static
from types import ModuleType
from typing import Any, NamedTuple

from hierlm.errors import UserError
from hierlm.parallel.seams.versions import DISTRIBUTIONS, is_within, remedy, told


class Seam(NamedTuple):
    """`name` of `owner`."""

    owner: str  # dotted path of a module, class or function
    name: str
    why: str  # we need it
    versions: str = ""  # the releases that have it and need it, as pip writes a range; all that are allowed where empty

    @property
    def distribution(self) -> str:
        return DISTRIBUTIONS[self.owner.partition(".")[0]]

    @property
    def applies(self) -> bool:
        """Whether the installed release is one of `versions`."""
        return not self.versions or is_within(self.distribution, self.versions)

    def problem(self, found: str = "not there") -> str:
        """The line for the user."""
        return (
            f"{self.owner}.{self.name}: {found} ({told(self.distribution)}), needed because {self.why}; "
            f"{remedy(self.distribution)}"
        )


def refuse(problems: Iterable[str]) -> None:
    """UserError with all of them if there are any: one line a name, however many uses it has."""
    first: dict[str, str] = {}
    for line in problems:
        first.setdefault(line.partition(": ")[0], line)
    if first:
        raise UserError(tuple(first.values()))


def thing_at(path: str) -> Any:
    """The module, class or function of a dotted path; AttributeError or ImportError where there is none."""
    module, *inside = _module_and_rest(path.split("."))
    thing = import_module(module)
    for part in inside:
        thing = getattr(thing, part)
    return thing


def _module_and_rest(parts: Sequence[str]) -> list[str]:
    """The longest beginning that is a module: a package may hold a class by the name of one of its modules."""
    for end in range(len(parts), 1, -1):
        with suppress(ImportError):
            import_module(name := ".".join(parts[:end]))
            return [name, *parts[end:]]
    return list(parts)


def is_there(path: str) -> bool:
    """Whether something stands at a dotted path."""
    try:
        thing_at(path)
    except (AttributeError, ImportError):
        return False
    return True


def has(thing: Any, name: str) -> bool:
    """Whether `thing` itself has the attribute.

    `hasattr` would ask `__getattr__` too, with which DeepSpeed's engine hands on what it lacks to the model.
    """
    if isinstance(thing, ModuleType):
        return hasattr(thing, name)
    try:
        getattr_static(thing, name)
    except AttributeError:
        return any(name in boxed for boxed in _boxes_of_torch(thing))
    return True


def _boxes_of_torch(thing: Any) -> Sequence[dict[str, Any]]:
    """Where an `nn.Module` keeps what looks like attributes."""
    held = getattr(thing, "__dict__", {})
    return [held[box] for box in ("_modules", "_parameters", "_buffers") if box in held]


class Names:
    """What one file imports, name by name, through `take`."""

    def __init__(self) -> None:
        self.seams: list[Seam] = []

    def take(self, owner: str, name: str, why: str) -> Any:
        """`owner.name`, listed; None where it is not there, which `problems` tells."""
        self.seams.append(Seam(owner, name, why))
        path = f"{owner}.{name}"
        return thing_at(path) if is_there(path) else None

    def later(self, owner: str, name: str, why: str) -> Callable[[], Any]:
        """What gives `owner.name` when it is called, or UserError: for what takes long to import, or to make."""
        self.seams.append(seam := Seam(owner, name, why))
        path = f"{owner}.{name}"

        def found() -> Any:
            refuse([] if is_there(path) else [seam.problem()])
            return thing_at(path)

        return found

    def problems(self) -> list[str]:
        """One line for each that is not there now."""
        return [seam.problem() for seam in self.seams if not is_there(f"{seam.owner}.{seam.name}")]
