"""A YAML file that is one mapping of known fields, and no run: a cluster, a device."""

from pathlib import Path
from typing import TypeVar

from hierlm.config.raw import read_mapping, resolved
from hierlm.config.schema import checked
from hierlm.errors import UserError
from hierlm.strict import Strict

T = TypeVar("T", bound=Strict)


def read_file(kind: type[T], path: str | Path) -> T:
    """What it holds; UserError lists everything wrong with it."""
    mapping, problems = resolved(read_mapping(path))
    found, more = checked(kind, mapping)
    problems += more
    if found is None or problems:
        raise UserError([f"{path}: {problem.path}: {problem.text}" for problem in problems])
    return found
