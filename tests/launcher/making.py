"""Jobs for the tests of this room."""

from pathlib import Path
from typing import Any

from hierlm.run_dir import RunDir
from launcher.cluster import ClusterProfile
from launcher.job import JobSpec


def job(run_dir: Path, *, command: tuple[str, ...] = ("python", "-m", "hierlm", "runs/x"), **fields: Any) -> JobSpec:
    """A job on two nodes of a site without wishes, unless said otherwise."""
    site = fields.pop("site", {})
    shape = {"num_nodes": 2, "tasks_per_node": 4, "working_dir": Path("/work dir"), "name": "run", **fields}
    return JobSpec(command=command, run_dir=RunDir(run_dir), site=ClusterProfile(**site), **shape)
