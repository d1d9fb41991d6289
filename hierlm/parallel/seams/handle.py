"""A handle on an object of another package: it lists what is read (`Field`, `Method`), set and replaced of it.

    class Engine(Handle):
        of = "deepspeed.runtime.engine.DeepSpeedEngine"
        micro_steps = Written[int]("...why")

    engine = Engine(theirs)
    engine.micro_steps = 0        # sets theirs
    engine.micro_stepz = 0        # AttributeError: not listed

Only what stands on the class can be looked for before there is an object (`problems_of_class`); the rest is when there
is one (`require`).
"""

from collections.abc import Callable, Iterator
from inspect import Parameter, isfunction, signature, unwrap
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

from hierlm.parallel.seams.seam import Seam, has, is_there, refuse, thing_at

T = TypeVar("T")
OPEN = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


class Field(Generic[T]):
    """Read of an instance, where its constructor has put it. `seen_as` makes a handle of what is read."""

    is_on_class = False

    def __init__(
        self, why: str, *, name: str = "", versions: str = "", seen_as: Callable[[Any], Any] | None = None
    ) -> None:
        self._why, self._name, self._versions, self._seen_as = why, name, versions, seen_as

    def __set_name__(self, owner: "type[Handle]", name: str) -> None:
        self.seam = Seam(owner.of, self._name or name, self._why, self._versions)

    @overload
    def __get__(self, handle: None, owner: type) -> Self: ...
    @overload
    def __get__(self, handle: "Handle", owner: type) -> T: ...
    def __get__(self, handle: "Handle | None", owner: type) -> Any:
        if handle is None:
            return self
        found = getattr(handle.behind, self.seam.name)
        return found if self._seen_as is None else self._seen_as(found)


class Method(Field[T]):
    """Called, or read of the class."""

    is_on_class = True


class Written(Field[T]):
    """Read and set."""

    def __set__(self, handle: "Handle", value: T) -> None:
        setattr(handle.behind, self.seam.name, value)


class Replaced(Method[T]):
    """A method in whose place one of ours is put, on an instance or by a subclass. `takes` are its parameters."""

    def __init__(self, why: str, *, takes: tuple[str, ...] | None = None, name: str = "", versions: str = "") -> None:
        super().__init__(why, name=name, versions=versions)
        self.takes = takes

    def __set__(self, handle: "Handle", value: T) -> None:
        if differs := difference(getattr(handle.behind, self.seam.name), value):  # type: ignore[arg-type]
            refuse([self.seam.problem(differs)])
        setattr(handle.behind, self.seam.name, value)


class Handle:
    """Subclasses list what is used of `of`."""

    of: ClassVar[str]
    """Dotted path of the class."""

    def __init__(self, behind: Any) -> None:
        self.behind = behind

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "behind" and not hasattr(getattr(type(self), name, None), "__set__"):
            raise AttributeError(f"{name} of {self.of} is not listed as written or replaced")
        super().__setattr__(name, value)

    @classmethod
    def attributes(cls) -> "Iterator[Field[Any]]":
        """All that are listed, for the installed release or another one; those of parents too."""
        for kind in cls.__mro__:
            yield from (field for field in vars(kind).values() if isinstance(field, Field))

    def require(self) -> Self:
        """Itself; UserError where the object lacks anything of the list."""
        listed = (field.seam for field in self.attributes())
        refuse(seam.problem() for seam in listed if seam.applies and not has(self.behind, seam.name))
        return self

    @classmethod
    def class_seam(cls) -> Seam:
        """The class itself."""
        owner, _, name = cls.of.rpartition(".")
        return Seam(owner, name, "we use what it holds")

    @classmethod
    def problems_of_class(cls) -> Iterator[str]:
        """One line for each method that the class lacks, or that takes other parameters than it did."""
        if not is_there(cls.of):
            yield cls.class_seam().problem()
            return
        theirs = thing_at(cls.of)
        for field in (field for field in cls.attributes() if field.is_on_class and field.seam.applies):
            if not has(theirs, field.seam.name):
                yield field.seam.problem()
            elif isinstance(field, Replaced) and field.takes is not None:
                found = parameters(getattr(theirs, field.seam.name))
                if found != field.takes:
                    yield field.seam.problem(f"takes ({', '.join(found)}) and not ({', '.join(field.takes)})")


Class = TypeVar("Class", bound=type)


def overrides(handle: type[Handle]) -> Callable[[Class], Class]:
    """Of a subclass of what the handle is on: each replaced method it defines takes what the list says."""

    def checked(ours: Class) -> Class:
        for field in handle.attributes():
            if isinstance(field, Replaced) and field.seam.name in vars(ours):
                taken = parameters(vars(ours)[field.seam.name])
                assert taken == field.takes, f"{ours.__name__}.{field.seam.name} takes {taken}, not {field.takes}"
        return ours

    return checked


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names in order, without `self`, `*args` and `**kwargs`."""
    found = signature(_undecorated(function)).parameters.values()
    return tuple(one.name for one in found if one.name != "self" and one.kind not in OPEN)


def difference(theirs: Callable[..., Any], ours: Callable[..., Any]) -> str | None:
    """What is said where `ours` does not take what `theirs` takes, in the same order; more may follow."""
    wanted, given = parameters(theirs), parameters(ours)
    return None if given[: len(wanted)] == wanted else f"takes ({', '.join(wanted)}), ours takes ({', '.join(given)})"


def _undecorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a decorator has put `(*args, **kwargs)` around, without saying what."""
    plain = unwrap(getattr(function, "__func__", function))
    kinds = [parameter.kind for parameter in signature(plain).parameters.values()]
    held = [cell.cell_contents for cell in getattr(plain, "__closure__", None) or ()]
    inside = [thing for thing in held if isfunction(thing)]
    return _undecorated(inside[0]) if kinds == list(OPEN) and len(inside) == 1 else plain
