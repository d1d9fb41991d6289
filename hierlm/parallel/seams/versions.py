"""Which releases of the packages behind the seams are installed, and which ones the tests were run with."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

TRIED = {"deepspeed": ("0.19.3", "0.19.8"), "megatron-core": ("0.16.1",), "torch": ("2.13.0",)}
"""Oldest and newest release of each that the distributed tests were run with (docs/versions.md)."""

DISTRIBUTIONS = {"deepspeed": "deepspeed", "megatron": "megatron-core", "torch": "torch"}
"""What is installed, by what is imported."""


@cache
def installed(distribution: str) -> str:
    """The version, or "of unknown version" where a package was put there without its metadata."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "of unknown version"


def is_within(distribution: str, versions: str) -> bool:
    """Whether the installed release is in the range, as pip writes it; one of unknown version counts as the newest."""
    found = installed(distribution)
    try:
        Version(found)
    except InvalidVersion:
        found = TRIED[distribution][-1]
    return SpecifierSet(versions).contains(found, prereleases=True)


def told(distribution: str) -> str:
    """`deepspeed 0.19.9 is installed, 0.19.3 and 0.19.8 were tried`."""
    tried = TRIED[distribution]
    return f"{distribution} {installed(distribution)} is installed, {' and '.join(tried)} {_was(tried)} tried"


def remedy(distribution: str) -> str:
    """What pip is to be told."""
    oldest, newest = TRIED[distribution][0], TRIED[distribution][-1]
    return f"pip install '{distribution}=={newest}'" if oldest == newest else _range(distribution, oldest, newest)


def _range(distribution: str, oldest: str, newest: str) -> str:
    return f"pip install '{distribution}>={oldest},<={newest}'"


def _was(tried: tuple[str, ...]) -> str:
    return "was" if len(tried) == 1 else "were"
