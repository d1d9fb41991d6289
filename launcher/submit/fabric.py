"""`hierlm doctor --fabric`: the bandwidth between processes, here or over an allocation, beside what it should be."""

import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from hierlm.run_dir import RunDir
from launcher import local
from launcher.cluster import ClusterProfile, Fabric
from launcher.doctor import Check
from launcher.job import JobSpec
from launcher.placement import gpus_here
from launcher.submit import allocation

MEBIBYTES = 64


def fabric_checks(
    site: ClusterProfile, *, num_processes: int | None, mebibytes: float = MEBIBYTES
) -> tuple[list[Check], dict[str, Any] | None]:
    """What was measured, judged by the site's figures where it has some; and the measurement itself."""
    found = measured(site, num_processes=num_processes, mebibytes=mebibytes)
    if found is None:
        return [Check("fabric", "wrong", "the processes did not meet, or have failed; see their lines above")], None
    return judged(found, site.fabric), found


def measured(site: ClusterProfile, *, num_processes: int | None, mebibytes: float) -> dict[str, Any] | None:
    """Run the processes and read what the first one wrote; None where they failed."""
    spans = allocation.spans_nodes()
    num_nodes = int(os.environ["SLURM_JOB_NUM_NODES"]) if spans else 1
    per_node = num_processes or (site.processes_per_node if spans else max(2, gpus_here()))
    with tempfile.TemporaryDirectory(prefix=".fabric-", dir=Path.cwd(), ignore_cleanup_errors=True) as folder:
        job = JobSpec(
            name="fabric",
            run_dir=RunDir(Path(folder)),
            working_dir=Path.cwd(),
            command=(sys.executable, "-m", "hierlm.parallel.fabric", folder, str(mebibytes)),
            num_nodes=num_nodes,
            tasks_per_node=per_node,
            site=site,
        )
        code = allocation.run(job) if spans else local.run(job)
        if code != 0:
            return None
        found: dict[str, Any] = json.loads((Path(folder) / "fabric.json").read_text(encoding="utf-8"))
    return found


def judged(found: dict[str, Any], expected: Fabric | None) -> list[Check]:
    """One check of all processes together, one of the slowest link of each kind."""
    where = f"{found['num_processes']} processes on {len(found['hosts'])} node(s), {found['backend']}"
    rate, expected = found["all_reduce_gigabytes_per_second"], expected or Fabric()
    checks = [_check("all-reduce", rate, expected.all_reduce_gigabytes_per_second, expected, f"over {where}")]
    kinds = (
        ("links in a node", True, expected.link_in_node_gigabytes_per_second),
        ("links of nodes", False, expected.link_between_nodes_gigabytes_per_second),
    )
    for name, same_host, wanted in kinds:
        links = [link for link in found["links"] if link["same_host"] == same_host]
        if links:
            usual = median(link["rate"] for link in links)
            what = f"the slowest of {len(links)}, {links[0]['between']}; the median has {usual:.2f}"
            checks.append(_check(name, links[0]["rate"], wanted, expected, what))
    return checks


def _check(name: str, rate: float, wanted: float | None, expected: Fabric, what: str) -> Check:
    said = f"{rate:.2f} GB/s {what}"
    if wanted is None:
        return Check(name, "ok", f"{said}; no figure in the cluster file to compare with")
    share = rate / wanted
    detail = f"{said}; {share:.0%} of the cluster file's {wanted:g}"
    if share < expected.least_share:
        return Check(name, "wrong", f"{detail}, allowed: {expected.least_share:.0%}; docs/fabric.md says where to look")
    return Check(name, "ok", detail)
