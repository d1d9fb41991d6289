"""A sweep: one run per combination of values, submitted as one job array."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierlm.errors import UserError
from hierlm.run_dir import RunDir

SWEEP_SUFFIX = ".sweep"
SWEEP_FILE = "sweep.json"
LONGEST_NAME = 120


@dataclass(frozen=True)
class Member:
    """One run of a sweep: its name and what it overrides."""

    name: str
    overrides: tuple[str, ...]


def members(base: str, axes: Sequence[str]) -> list[Member]:
    """Every combination of `key=v1,v2` axes, named after their values, in the order given; UserError for a bad axis."""
    parsed = [_axis(axis) for axis in axes]
    keys = [key for key, _ in parsed]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise UserError(f"--array: {', '.join(sorted(twice))} given twice; list all its values once: KEY=V1,V2")
    short = _short_names(keys)
    combinations = list(itertools.product(*(values for _, values in parsed)))
    found = [Member(_name(base, short, values), tuple(_overrides(base, keys, values))) for values in combinations]
    if len({member.name for member in found}) == len(found) and all(len(m.name) <= LONGEST_NAME for m in found):
        return found
    return [Member(f"{base}-{number:03d}", member.overrides) for number, member in enumerate(found)]


def sweep_dir(run_root: Path, base: str) -> Path:
    """Where the job script and the list of members are; the members are runs like any other beside it."""
    return run_root / f"{base}{SWEEP_SUFFIX}"


def write_sweep(directory: Path, runs: Sequence[RunDir]) -> None:
    """Which runs the sweep has, by their names beside it, in the order of the array's indices."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SWEEP_FILE).write_text(json.dumps({"members": [run.name for run in runs]}, indent=2) + "\n")


def sweep_runs(directory: Path) -> list[RunDir] | None:
    """The members of a sweep; None when the directory is no sweep, or one whose list is damaged."""
    try:
        names = json.loads((directory / SWEEP_FILE).read_text(encoding="utf-8"))["members"]
        return [RunDir(directory.parent / name) for name in names]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _axis(text: str) -> tuple[str, list[str]]:
    key, equals, values = text.partition("=")
    found = list(_split(values))
    if not equals or not key or not all(found):
        raise UserError(f"--array: given {text!r}, allowed: KEY=V1,V2,... with a dotted key of the config")
    return key, found


def _split(values: str) -> Iterator[str]:
    """At commas that are in no bracket."""
    depth, piece = 0, ""
    for character in values:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            yield piece.strip()
            piece = ""
        else:
            piece += character
    yield piece.strip()


def _short_names(keys: Sequence[str]) -> list[str]:
    """The last part of each dotted key, or the whole key where two of them end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def _name(base: str, short: Sequence[str], values: Sequence[str]) -> str:
    return "-".join([base, *(key + _as_a_name(value) for key, value in zip(short, values, strict=True))])


def _as_a_name(value: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "_", value).strip("_")


def _overrides(base: str, keys: Sequence[str], values: Sequence[str]) -> Iterator[str]:
    yield from (f"{key}={value}" for key, value in zip(keys, values, strict=True))
    yield f"tracking.sweep={base}"
