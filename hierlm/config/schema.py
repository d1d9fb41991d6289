"""Pydantic's findings in our words: dotted path, what was given, what is allowed, nearest valid name."""

import json
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError
from pydantic_core import ErrorDetails

from hierlm.config.problem import Problem, given, nearest, sentence

T = TypeVar("T", bound=BaseModel)

ALLOWED = {
    "model_type": "a mapping of `key: value`",
    "model_attributes_type": "a mapping of `key: value`",
    "dict_type": "a mapping of `key: value`",
    "tuple_type": "a list",
    "list_type": "a list",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a text (in quotes where YAML reads it otherwise)",
    "bool_type": "true or false",
}
KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}


def checked(cls: type[T], raw: Mapping[str, Any]) -> tuple[T | None, list[Problem]]:
    """`raw` as a `cls`, or every problem of it. "12" and true are no integers; a list may stand for a tuple."""
    try:
        # by way of JSON, because pydantic's strict mode takes a list for a tuple only there
        return cls.model_validate_json(json.dumps(raw, default=str), strict=True), []
    except ValidationError as error:
        return None, explain(cls, error.errors(include_url=False))


def explain(cls: type[BaseModel], errors: Iterable[ErrorDetails]) -> list[Problem]:
    """One problem per path; the members of a union are joined by `or`."""
    by_path: dict[str, list[_Finding]] = {}
    for error in errors:
        if error["type"] == "default_factory_not_called":
            continue  # what it would follow from has an error of its own
        if error["type"] == "too_short" and len(error["input"]) >= error["ctx"]["min_length"]:
            continue  # pydantic counts the valid items only: the invalid ones have errors of their own
        path, annotation = locate(cls, error["loc"], names_a_key=error["type"] == "extra_forbidden")
        by_path.setdefault(path, []).append(_finding(error, annotation))
    return [_problem(path, findings) for path, findings in by_path.items()]


def _problem(path: str, findings: list["_Finding"]) -> Problem:
    first = findings[0]
    allowed = list(dict.fromkeys(finding.allowed for finding in findings if finding.allowed))
    text = sentence(first.what, allowed=" or ".join(allowed), near=first.near) if allowed else first.what
    # a misspelled key also leaves open what its right spelling should hold
    meant = f"{path.rpartition('.')[0]}.{first.near}".lstrip(".") if first.near and first.is_key else None
    return Problem(path, text, involves=(meant,) if meant else ())


def locate(cls: type[BaseModel], loc: tuple[int | str, ...], *, names_a_key: bool) -> tuple[str, Any]:
    """The dotted path without pydantic's union tags, and the type expected there.

    `names_a_key`: the last part is a key its owner does not know; the type is then the owner's.
    """
    annotation: Any = cls
    path: list[str] = []
    for part in loc[:-1] if names_a_key else loc:
        below = _below(annotation, part)
        if below is None:  # a union tag: the same place by another name
            annotation = _tagged(annotation, part)
            continue
        path.append(str(part))
        annotation = below
    return ".".join([*path, *map(str, loc[-1:] if names_a_key else ())]) or "file", annotation


def field_names(annotation: Any) -> list[str]:
    """Names of the fields of the record types in an annotation."""
    models = (option for option in _options(annotation) if _is_model(option))
    return list(dict.fromkeys(name for option in models for name in option.model_fields))


class _Finding(NamedTuple):
    what: str
    allowed: str | None
    near: str | None = None
    is_key: bool = False


def _finding(error: ErrorDetails, annotation: Any) -> _Finding:
    kind, value, message = error["type"], error["input"], error["msg"]
    what = f"given {given(value)}"
    if kind == "extra_forbidden":
        names = field_names(annotation)
        near = nearest(error["loc"][-1], names)
        return _Finding(f"unknown key ({what})", ", ".join(names), near, is_key=True)
    if kind == "missing":
        return _Finding("missing", _kind_of(annotation))
    if kind == "literal_error":
        choices = [str(choice) for o in _options(annotation) if get_origin(o) is Literal for choice in get_args(o)]
        return _Finding(what, ", ".join(choices), nearest(value, choices))
    if kind == "value_error":  # a room's own validator, worded for the user already
        return _Finding(f"{what}: {message.removeprefix('Value error, ')}", None)
    return _Finding(what, _allowed(error))


def _allowed(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    bounds = {
        "string_pattern_mismatch": "a text matching {pattern}",
        "too_short": "a list of at least {min_length}",
        "too_long": "a list of at most {max_length}",
    }
    kind = error["type"]
    if kind in bounds:
        return bounds[kind].format(**context)
    return ALLOWED.get(kind, error["msg"].removeprefix("Input should be "))


def _kind_of(annotation: Any) -> str:
    names = field_names(annotation)
    if names:
        return "a mapping with " + ", ".join(names)
    if get_origin(annotation) in (tuple, list):
        return "a list"
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    return KINDS.get(annotation, str(getattr(annotation, "__name__", annotation)))


def _options(annotation: Any) -> list[Any]:
    """The members of a union, without Annotated and None."""
    if get_origin(annotation) is Annotated:
        return _options(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for member in get_args(annotation) for option in _options(member)]
    return [] if annotation is type(None) else [annotation]


def _tagged(annotation: Any, tag: int | str) -> Any:
    """The member of a union that carries a tag, or the whole where none does."""
    members = (member for union in _unions(annotation) for member in get_args(union))
    return next((member for member in members if Tag(str(tag)) in getattr(member, "__metadata__", ())), annotation)


def _unions(annotation: Any) -> list[Any]:
    """The union an annotation is, if it is one."""
    inner = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    return [inner] if get_origin(inner) in (Union, types.UnionType) else []


def _below(annotation: Any, part: int | str) -> Any:
    """The type one step down, or None where `part` is no step (an unknown key, a union tag)."""
    for option in _options(annotation):
        arguments = get_args(option)
        if _is_model(option) and part in option.model_fields:
            return option.model_fields[part].annotation
        if isinstance(part, int) and get_origin(option) in (tuple, list):
            fixed = Ellipsis not in arguments and get_origin(option) is tuple and part < len(arguments)
            return arguments[part] if fixed else arguments[0]
        if get_origin(option) is dict:
            return arguments[1]
    return None


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)
