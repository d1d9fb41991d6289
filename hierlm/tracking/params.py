"""A nested config as the flat text parameters trackers and comparisons show."""

from collections.abc import Iterator, Mapping
from typing import Any


def flatten(values: Mapping[str, Any]) -> dict[str, str]:
    """`{"phases": [{"name": "a"}]}` -> `{"phases.0.name": "a"}`; numbers as `repr`, `null` and booleans as YAML has."""
    return dict(_leaves(values, path=""))


def _leaves(value: Any, *, path: str) -> Iterator[tuple[str, str]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    if not items and path:
        yield path, text(value)
    for key, inner in items:
        yield from _leaves(inner, path=f"{path}.{key}" if path else str(key))


def text(value: Any) -> str:
    """One parameter's value: `null`, `true`, `false`, `[]`, `{}`, or what `str` gives."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
