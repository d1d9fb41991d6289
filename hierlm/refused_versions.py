"""Releases of other packages that are known to compute wrong: nothing is trained with them. Torch-free, imports none.

A range in pyproject.toml says what was tried, but binds only whoever installs by it: clusters bring packages of their
own. One row a fault, added when it is found; `hierlm train`, `submit`, `doctor` and the processes of a job ask.
"""

from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from hierlm.errors import UserError


class Refused(NamedTuple):
    """A fault of some releases."""

    package: str
    versions: str  # a range, as pip writes it
    fault: str  # what goes wrong, and when
    reference: str
    mend: str  # what to install instead, as pip takes it


REFUSED = (
    Refused(
        package="deepspeed",
        versions=">=0.19.0,<0.19.3",
        fault="in a pipeline of three stages or more it divides gradients by the number of micro-batches repeatedly",
        reference="DeepSpeed#8152",
        mend="deepspeed>=0.19.3,<=0.19.8",
    ),
)


def version_problems(*, table: Sequence[Refused] = REFUSED, version_of: Callable[[str], str] = version) -> list[str]:
    """One line for each installed package of the table; a package that is not there is another matter."""
    found = []
    for row in table:
        try:
            installed = version_of(row.package)
            is_wrong = SpecifierSet(row.versions).contains(installed, prereleases=True)
        except (PackageNotFoundError, InvalidVersion):
            continue
        if is_wrong:
            found.append(
                f"{row.package} {installed} is installed, which trains wrong: {row.fault} ({row.reference}); "
                f"allowed: not {row.versions}, as in pip install '{row.mend}'"
            )
    return found


def refuse_wrong_versions() -> None:
    """UserError with every reason."""
    problems = version_problems()
    if problems:
        raise UserError(problems)
