"""what this machine has: python, torch, DeepSpeed, GPUs, compiler, Slurm, disk, tracker"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.options import JsonOption

if TYPE_CHECKING:
    from collections.abc import Iterable

    from launcher.doctor import Check

EXAMPLE = "hierlm doctor --tracker http://mlflow.example.org:5000"

FabricOption = Annotated[bool, typer.Option("--fabric", help="measure bandwidth between processes, and no more")]
ClusterOption = Annotated[str | None, typer.Option(metavar="FILE", help="with --fabric: what it should be")]
ProcessesOption = Annotated[int | None, typer.Option(min=2, help="with --fabric: on each node")]


def command(
    tracker: Annotated[str, typer.Option(metavar="URI", help="as in tracking.uri")] = "sqlite:///runs/mlflow.db",
    fabric: FabricOption = False,
    cluster: ClusterOption = None,
    processes: ProcessesOption = None,
    as_json: JsonOption = False,
) -> int:
    """Examine this machine; exit code 1 when something is wrong that training needs, 2 when a package trains wrong.

    With --fabric the bandwidth between processes instead, on this machine or, inside an allocation of several nodes,
    over them; compared with `fabric` of the cluster file.
    """
    from launcher.doctor import examine

    def say(what: str) -> None:
        print(f"{what} ...", file=sys.stderr, flush=True)

    if not fabric:
        return _report(examine(tracker_uri=tracker, say=say), as_json=as_json)
    from launcher.cluster import ClusterProfile, load_cluster
    from launcher.submit.fabric import fabric_checks

    say("measuring what passes between processes")
    checks, measured = fabric_checks(load_cluster(cluster) if cluster else ClusterProfile(), num_processes=processes)
    return _report(checks, as_json=as_json, more={"fabric": measured})


def _report(found: "Iterable[Check]", *, as_json: bool, more: dict[str, Any] | None = None) -> int:
    """Each check when it is there, and the exit code."""
    from dataclasses import asdict

    from hierlm.exit_codes import FAILED, WRONG_INPUT
    from launcher.doctor import VERSIONS
    from launcher.verb import print_json

    checks: list[Check] = []
    for check in found:
        checks.append(check)
        if not as_json:
            print(f"{check.state:<7} {check.name:<14} {check.detail}", flush=True)
    healthy = all(check.state != "wrong" for check in checks)
    if as_json:
        print_json({"healthy": healthy, "checks": [asdict(check) for check in checks], **(more or {})})
    if any(check.name == VERSIONS and check.state == "wrong" for check in checks):
        return WRONG_INPUT
    return 0 if healthy else FAILED
