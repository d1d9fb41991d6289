"""What is put in place of something must be callable as that was."""

from collections.abc import Callable
from inspect import Parameter, isfunction, signature, unwrap
from typing import Any

OPEN = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


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
