"""what this machine has: python, torch, DeepSpeed, GPUs, compiler, Slurm, disk, tracker"""

import sys
from typing import Annotated

import typer

from launcher.options import JsonOption

EXAMPLE = "hierlm doctor --tracker http://mlflow.example.org:5000"


def command(
    tracker: Annotated[str, typer.Option(metavar="URI", help="as in tracking.uri")] = "sqlite:///runs/mlflow.db",
    as_json: JsonOption = False,
) -> int:
    """Examine this machine; exit code 1 when something is wrong that training needs, 2 when a package trains wrong."""
    from dataclasses import asdict

    from hierlm.exit_codes import FAILED, WRONG_INPUT
    from launcher.doctor import VERSIONS, Check, examine
    from launcher.verb import print_json

    checks: list[Check] = []
    for check in examine(tracker_uri=tracker, say=lambda what: print(f"{what} ...", file=sys.stderr, flush=True)):
        checks.append(check)
        if not as_json:
            print(f"{check.state:<7} {check.name:<14} {check.detail}", flush=True)
    healthy = all(check.state != "wrong" for check in checks)
    if as_json:
        print_json({"healthy": healthy, "checks": [asdict(check) for check in checks]})
    if any(check.name == VERSIONS and check.state == "wrong" for check in checks):
        return WRONG_INPUT
    return 0 if healthy else FAILED
