"""What a run needs and a container would not have is named before the job is in the queue."""

from pathlib import Path

import pytest

from launcher.cluster import ClusterProfile
from launcher.mounts import mount_problems
from launcher.provenance import SOURCE_ROOT
from tests.config.making import config

RUNTIMES = ["apptainer", "pyxis"]


def site(runtime: str, *mounts: str) -> ClusterProfile:
    return ClusterProfile.model_validate({"container": {"runtime": runtime, "image": "x", "mounts": list(mounts)}})


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of work, with a dataset whose tokenizer lies somewhere else."""
    for name in ("work", "data", "elsewhere", "runs"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere" / "tokenizer.model").write_bytes(b"")
    (tmp_path / "data" / "tokenizer.model").symlink_to(tmp_path / "elsewhere" / "tokenizer.model")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def missing(root: Path, where: ClusterProfile) -> list[str]:
    run = config(root, f"data.path={root / 'data'}", f"run_root={root / 'runs'}")
    return mount_problems(run, site=where)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_missing_place_is_one_line_with_what_it_is(runtime: str, places: Path) -> None:
    everything = [str(SOURCE_ROOT), *(str(places / name) for name in ("work", "runs", "data", "elsewhere"))]
    assert missing(places, site(runtime, *everything)) == []
    said = ["the checkout", "the folder the job runs in", "the run root", "the dataset", "the tokenizer"]
    for gone, what in zip(everything, said, strict=True):
        problems = missing(places, site(runtime, *(mount for mount in everything if mount != gone)))
        assert problems and all("\n" not in problem for problem in problems)
        assert problems[0].startswith(f"container.mounts: {what}, {gone}") and "add " in problems[0]


def test_a_folder_above_is_enough_and_another_name_in_there_is_not(places: Path) -> None:
    assert missing(places, site("apptainer", str(SOURCE_ROOT), f"{places}:{places}:ro")) == []
    assert missing(places, site("pyxis", "/:/")) == []
    moved = missing(places, site("pyxis", str(SOURCE_ROOT), f"{places}:/data"))
    assert len(moved) == 5  # of the tokenizer both the link and what it leads to
    hidden = missing(places, site("pyxis", str(SOURCE_ROOT), str(places), f"{places / 'work'}:{places / 'data'}"))
    assert len(hidden) == 2 and "the dataset" in hidden[0]  # behind a mount of something else


def test_without_a_container_nothing_is_asked(places: Path) -> None:
    assert missing(places, ClusterProfile()) == []
