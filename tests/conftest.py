"""What tests of several rooms share: the console script, a small prepared dataset, the real corpora."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from hierlm.meeting import FILE_VARIABLE
from tests.commands import Command

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Before anything imports torch: tests run beside each other, and the threads of small models mostly wait."""

settings.register_profile(
    "hierlm",
    deadline=None,  # of an example, and the same for making them: the machine may be busy
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    print_blob=True,
    max_examples=50,
)
settings.load_profile("hierlm")
"""Here, before any test file is imported: the profile of a folder would hold for those collected after it too."""

ROOT = Path(__file__).parents[1]
CORPORA = Path(os.environ.get("HIERLM_TEST_DATA", ROOT.parent / "shared" / "data"))


def pytest_configure(config: pytest.Config) -> None:
    """A worker collects every file: it imports the engines through their door, in half the time of another way."""
    if hasattr(config, "workerinput"):
        import hierlm.parallel.process  # noqa: F401


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several workers share the tests, a file's tests together, those of Slurm come first, then slow files.

    Begun last, one of them would keep a single worker busy at the end; those of Slurm wait for most of their time.
    """
    if hasattr(config, "workerinput"):
        marked = {mark: {item.path for item in items if item.get_closest_marker(mark)} for mark in ("slurm", "slow")}
        items.sort(key=lambda item: (item.path not in marked["slurm"], item.path not in marked["slow"]))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One worker has the one Slurm: its files go together."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "tests/slurm" if nodeid.startswith("tests/slurm/") else super()._split_scope(nodeid)

    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


def hierlm(
    *arguments: object,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    timeout: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Run a command line in a process of its own that need not import what every command imports."""
    command = Command(arguments, cwd=cwd, environment=environment or quiet_environment())
    try:
        out, error = command.communicate(timeout=timeout)
    finally:
        command.kill()
    code = command.wait()
    assert not check or code == 0, f"{arguments}: exit {code}\n{out}\n{error}"
    return subprocess.CompletedProcess(command.args, code, out, error)


def hierlm_path() -> str:
    """The console script of the environment the tests run in, for those that start it as a user does."""
    return str(Path(sys.executable).with_name("hierlm"))


def quiet_environment() -> dict[str, str]:
    """The environment without the launcher's own variables; one thread per process keeps small tests fast."""
    outside = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE", FILE_VARIABLE)}
    return {**outside, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def corpus(name: str) -> Path:
    """A real corpus, or a skip that says what is missing."""
    path = CORPORA / name
    if not path.exists():
        pytest.skip(f"real corpus not here: {path} (HIERLM_TEST_DATA names the folder)")
    return path


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared byte dataset of about 300 kB of this project's own sources."""
    return prepare_tiny_dataset(tmp_path_factory.mktemp("dataset"))


def prepare_tiny_dataset(folder: Path) -> Path:
    """What `tiny_dataset` is, below any folder."""
    text = b"".join(path.read_bytes() for path in sorted(ROOT.glob("hierlm/**/*.py")))
    (folder / "corpus.txt").write_bytes((text * (1 + 300_000 // len(text)))[:300_000])
    output = folder / "tiny"
    splits = ("--splits", "valid=0.05,test=0.05")
    hierlm("data", "prepare", "--input", folder / "corpus.txt", "--output", output, *splits, cwd=folder)
    return output
