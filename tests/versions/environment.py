"""An environment for one pair of releases: they are its own, everything else is that of `.venv`, found behind them."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from tests.conftest import ROOT

FOLDER = ROOT / "runs" / "versions"


class Pair(NamedTuple):
    """Releases that are installed together."""

    deepspeed: str
    megatron_core: str

    @property
    def requirements(self) -> tuple[str, str]:
        return f"deepspeed=={self.deepspeed}", f"megatron-core=={self.megatron_core}"


def pairs() -> Iterator[Pair]:
    """The oldest releases that pyproject.toml allows, then the newest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = {found.name: found for found in map(Requirement, project["dependencies"])}
    for operator in (">=", "<="):
        bounds = (
            next(part.version for part in requirements[name].specifier if part.operator == operator)
            for name in ("deepspeed", "megatron-core")
        )
        yield Pair(*bounds)


def python_with(pair: Pair) -> Path:
    """The interpreter of the pair's environment, which is made where there is none."""
    place = FOLDER / "_".join(requirement.replace("==", "-") for requirement in pair.requirements)
    python, packages = place / "bin" / "python", Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    if not python.exists():
        venv.create(place, with_pip=False, symlinks=True)
        # after its own folder on the path: what is installed here comes first, metadata too
        shared = sysconfig.get_path("purelib")
        (packages / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")
    here = {found.metadata["Name"]: found.version for found in distributions(path=[str(packages)])}
    if here != {"deepspeed": pair.deepspeed, "megatron-core": pair.megatron_core}:
        _install(python, pair)
    return python


def _install(python: Path, pair: Pair) -> None:
    """From the registry, without what they depend on: that is the same for both and stands behind."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", str(python)]
    alone = ["install", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    subprocess.run([*pip, *alone, *pair.requirements], check=True)
