"""What is written for sites holds together: two images of the same steps, and a word on every setting."""

import re

import pytest

from launcher.cluster import load_cluster
from tests.conftest import ROOT

DOCKER, APPTAINER = ROOT / "slurm" / "Dockerfile", ROOT / "slurm" / "hierlm.def"


def steps(text: str) -> list[str]:
    """Commands, by what they do: packages installed, Python run."""
    joined = re.sub(r"\\\n\s*(&& )?", lambda found: "\n" if found[1] else "", text)
    lines = (line.strip().removeprefix("RUN ").removeprefix("&& ") for line in joined.splitlines())
    return [
        re.sub(r"\s+", " ", line) for line in lines if line.startswith(("apt-get", "/opt/venv", "python3 -m", "rm"))
    ]


def test_both_images_are_made_by_the_same_steps() -> None:
    docker, apptainer = steps(DOCKER.read_text()), steps(APPTAINER.read_text())
    assert len(docker) >= 6
    assert docker == [step for step in apptainer if "import torch" not in step]  # the last is its test
    assert "debian:12-slim" in DOCKER.read_text() and "debian:12-slim" in APPTAINER.read_text()


@pytest.mark.parametrize("name", ["gpu", "cpu", "generic"])
def test_every_setting_of_the_network_is_explained(name: str) -> None:
    page = (ROOT / "docs" / "fabric.md").read_text()
    settings = load_cluster(ROOT / "configs" / "clusters" / f"{name}.yaml").environment
    assert [setting for setting in settings if f"`{setting}`" not in page] == []


def test_the_flight_recorder_is_called_what_torch_calls_it() -> None:
    torch = pytest.importorskip("torch")
    from pathlib import Path

    header = Path(torch.__file__).parent / "include/torch/csrc/distributed/c10d/FlightRecorder.hpp"
    assert '"TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_TRACE_BUFFER_SIZE"' in header.read_text()
