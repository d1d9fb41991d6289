"""train the same model as a Slurm job"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.options import ConfigArgument, JsonOption, OverridesArgument, PluginOption

if TYPE_CHECKING:
    from hierlm.config.run_config import RunConfig
    from hierlm.models.config import ModelConfig
    from launcher.cluster import ClusterProfile
    from launcher.slurm.chain import Link

EXAMPLE = "hierlm submit configs/demo/hourglass.yaml --cluster configs/clusters/generic.yaml --dry-run"

ClusterOption = Annotated[str | None, typer.Option(metavar="FILE", help="what the site needs, see configs/clusters")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="print the job script; write and submit nothing")]
ArrayOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=V1,V2", help="a run for each value, as a job array; may be repeated")
]
AtOnceOption = Annotated[int | None, typer.Option(min=1, help="of an array: how many members run at a time")]
ChainOption = Annotated[bool, typer.Option("--chain", help="a job per phase, each after the one before")]
SlicesOption = Annotated[int | None, typer.Option(min=2, help="so many jobs in a row, where a site does not requeue")]


def command(
    config: ConfigArgument,
    overrides: OverridesArgument = None,
    cluster: ClusterOption = None,
    dry_run: DryRunOption = False,
    array: ArrayOption = None,
    at_once: AtOnceOption = None,
    chain: ChainOption = False,
    slices: SlicesOption = None,
    plugin: PluginOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the run directory with its job script and hand it to sbatch.

    The job asks for as many nodes as the layout needs. Before its time limit it saves a checkpoint and goes back
    into the queue. RUN/job.sbatch can be submitted again by plain sbatch.
    """
    from hierlm.errors import UserError
    from launcher.cluster import ClusterProfile, load_cluster

    if bool(array) + chain + (slices is not None) > 1:
        raise UserError("--array, --chain, --slices: given together, allowed: one of them")
    site = load_cluster(cluster) if cluster else ClusterProfile()
    words = list(overrides or [])
    if array:
        _submit_sweep(config, words, array, site=site, at_once=at_once, dry_run=dry_run, as_json=as_json)
    else:
        _submit_run(config, words, site=site, chain=chain, slices=slices, dry_run=dry_run, as_json=as_json)


def _submit_run(
    path: str,
    overrides: Sequence[str],
    *,
    site: "ClusterProfile",
    chain: bool,
    slices: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    from hierlm.config.load import load_config
    from launcher.preflight import refuse_missing_weights
    from launcher.slurm.sbatch import render
    from launcher.submit.run import job_of, submit_run
    from launcher.verb import print_json

    config = load_config(path, overrides)
    if dry_run:
        refuse_missing_weights(config)
        script = render(job_of(config, site=site))
        print_json({"run": config.name, "script": script}) if as_json else print(script, end="")
        return
    done = submit_run(config, site=site, links=_links(config, chain, slices), command_line=sys.argv)
    if as_json:
        jobs = {"job_id": done.job_id, "job_ids": list(done.job_ids)}
        print_json({"run": done.run_dir.name, "run_dir": str(done.run_dir.path), **jobs})
    else:
        print(*done.messages, sep="\n")


def _links(config: "RunConfig[ModelConfig]", chain: bool, slices: int | None) -> "list[Link]":
    from launcher.slurm.chain import phase_links, slice_links

    if chain:
        return phase_links(config.phases)
    return slice_links(slices) if slices else []


def _submit_sweep(
    path: str,
    overrides: Sequence[str],
    axes: Sequence[str],
    *,
    site: "ClusterProfile",
    at_once: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    from launcher.preflight import refuse_missing_weights
    from launcher.prepare_run import run_dir_of
    from launcher.submit.run import job_of
    from launcher.submit.sweep import load_members, render_array, submit_sweep
    from launcher.verb import print_json

    base, configs = load_members(path, overrides, axes)
    if dry_run:
        refuse_missing_weights(*configs)
        runs = [run_dir_of(config) for config in configs]
        script = render_array(base, job_of(configs[0], site=site), runs, at_once=at_once)
        print_json({"sweep": base, "script": script}) if as_json else print(script, end="")
        return
    done = submit_sweep(base, configs, site=site, at_once=at_once, command_line=sys.argv)
    if as_json:
        names = [run.name for run in done.runs]
        print_json({"sweep": base, "directory": str(done.directory), "runs": names, "job_id": done.job_id})
    else:
        print(*done.messages, sep="\n")
