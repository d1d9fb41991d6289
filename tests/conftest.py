"""What tests of several rooms share: the console script, a small prepared dataset, the real corpora."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hierlm.meeting import FILE_VARIABLE

os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Before anything imports torch: tests run beside each other, and the threads of small models mostly wait."""

settings.register_profile(
    "hierlm",
    deadline=None,  # of an example, and the same for making them: the machine may be busy
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
    print_blob=True,
    max_examples=50 * int(os.environ.get("HIERLM_FUZZ", "1")),
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
    """Where several workers share the tests, a file's tests together, files with slow tests come first.

    Begun last, one of them would keep a single worker busy at the end.
    """
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def hierlm(*arguments: object, cwd: Path, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run the console script as a user would, with one thread per process."""
    done = subprocess.run(
        [hierlm_path(), *map(str, arguments)],
        cwd=cwd,
        env=quiet_environment(),
        capture_output=True,
        text=True,
        errors="replace",  # an untrained byte model writes no UTF-8
        timeout=timeout,
        check=False,
    )
    assert not check or done.returncode == 0, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def hierlm_path() -> str:
    """The console script of the environment the tests run in."""
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
