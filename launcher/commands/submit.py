"""train the same model as a Slurm job"""

import sys
from typing import Annotated

import typer

from launcher.options import ConfigArgument, JsonOption, OverridesArgument

EXAMPLE = "hierlm submit configs/demo/hourglass.yaml --cluster configs/clusters/gpu.yaml --dry-run"

ClusterOption = Annotated[str | None, typer.Option(metavar="FILE", help="what the site needs, see configs/clusters")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="print the job script; write and submit nothing")]


def command(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    *,
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the run directory with its job script and hand it to sbatch.

    The job asks for as many nodes as the layout needs. Before its time limit it saves a checkpoint and goes back
    into the queue. RUN/job.sbatch can be submitted again by plain sbatch.
    """
    from hierlm.config.load import load_config
    from launcher.cluster import ClusterProfile, load_cluster
    from launcher.sbatch import render
    from launcher.submit_run import job_of, submit_run
    from launcher.verb import print_json

    run_config = load_config(config, overrides or [])
    site = load_cluster(cluster) if cluster else ClusterProfile()
    if dry_run:
        script = render(job_of(run_config, site=site))
        print_json({"run": run_config.name, "script": script}) if as_json else print(script, end="")
        return
    done = submit_run(run_config, site=site, command_line=sys.argv)
    if as_json:
        print_json({"run": done.run_dir.name, "run_dir": str(done.run_dir.path), "job_id": done.job_id})
    else:
        print(*done.messages, sep="\n")
