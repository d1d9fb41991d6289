"""From a config to a job in the queue: preflight, run directory, job script, sbatch."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hierlm.config.run_config import RunConfig
from hierlm.errors import NoAnswerError, UserError
from hierlm.models.config import ModelConfig
from hierlm.run_dir import RunDir
from launcher.cluster import ClusterProfile
from launcher.job import JobSpec, cluster_job
from launcher.memory_fit import memory_problems
from launcher.mounts import mount_problems
from launcher.preflight import refuse_what_cannot_run, tracker_note
from launcher.prepare_run import PreparedRun, prepare_run, run_dir_of, write_whole
from launcher.runs.view import jobs_of
from launcher.slurm import client
from launcher.slurm.chain import Link, submit_chain
from launcher.slurm.client import RunCommand, run_command
from launcher.slurm.job_history import record_submit
from launcher.slurm.sbatch import render

Config = RunConfig[ModelConfig]


@dataclass(frozen=True)
class Submission:
    """What became of it; `job_ids` is empty for a run that is finished already. `messages` are lines for the user."""

    run_dir: RunDir
    job_ids: tuple[str, ...]
    messages: tuple[str, ...]

    @property
    def job_id(self) -> str | None:
        """The job that starts first."""
        return self.job_ids[0] if self.job_ids else None


def job_of(config: Config, *, site: ClusterProfile) -> JobSpec:
    """The job a config means on a site; nothing is written."""
    return cluster_job(config, run_dir=run_dir_of(config), site=site)


def submit_run(
    config: Config,
    *,
    site: ClusterProfile,
    command_line: Sequence[str],
    links: Sequence[Link] = (),
    run_command: RunCommand = run_command,
) -> Submission:
    """Write the run directory with its job script and hand that to sbatch, as one job or as the links of a chain.

    UserError with every reason against it.
    """
    problems = problems_before_the_queue(config, site=site, run_command=run_command)
    if problems:
        raise UserError(problems)
    prepared = place_run(config, site=site, command_line=command_line)
    run_dir = prepared.run_dir
    if prepared.is_finished:
        return Submission(run_dir, job_ids=(), messages=prepared.messages)
    if links:
        job_ids = submit_chain(run_dir, links, run_command=run_command)
        lines = [f"job {i} submitted for {link.name} of {run_dir.path}" for i, link in zip(job_ids, links, strict=True)]
    else:
        job_ids = [client.submit(run_dir.job_script, run_command=run_command)]
        record_submit(run_dir, job_id=job_ids[0])
        lines = [f"job {job_ids[0]} submitted for {run_dir.path}; its script: {run_dir.job_script}"]
    notes = filter(None, [tracker_note(config.tracking.uri)])
    return Submission(run_dir, job_ids=tuple(job_ids), messages=(*prepared.messages, *notes, *lines))


def place_run(config: Config, *, site: ClusterProfile, command_line: Sequence[str]) -> PreparedRun:
    """The run directory, with the job script in it unless the run is finished."""
    prepared = prepare_run(config, command_line=command_line)
    if not prepared.is_finished:
        write_whole(prepared.run_dir.job_script, render(job_of(config, site=site)))
    return prepared


def problems_before_the_queue(config: Config, *, site: ClusterProfile, run_command: RunCommand) -> list[str]:
    """Everything that speaks against a job for this run: the config and its data, Slurm, another job of the run.

    NoAnswerError when nothing is wrong but Slurm does not answer.
    """
    script = render(job_of(config, site=site))
    problems: list[str] = []
    try:
        refuse_what_cannot_run(config)
    except UserError as error:
        problems += error.problems
    problems += mount_problems(config, site=site)
    run_dir = run_dir_of(config)
    if site.device is not None and not run_dir.finished.exists():
        problems += memory_problems(config, device=site.device)
    if run_dir.finished.exists():
        return problems
    try:
        problems += _second_job(run_dir, run_command=run_command) + refused_by_slurm(script, run_command=run_command)
    except NoAnswerError as error:
        if not problems:
            raise
        problems += error.problems
    return problems


def refused_by_slurm(script: str, *, run_command: RunCommand) -> list[str]:
    """What `sbatch --test-only` says against a job script."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.sbatch"
        path.write_text(script, encoding="utf-8")
        refusal = client.refusal(path, run_command=run_command)
    return [] if refusal is None else [refusal]


def _second_job(run_dir: RunDir, *, run_command: RunCommand) -> list[str]:
    """Two jobs of one run would write the same files."""
    if not run_dir.job_script.exists():
        return []
    jobs = [job.job_id for job in jobs_of(run_dir, client.queue(run_command=run_command))]
    if not jobs:
        return []
    return [f"{run_dir.path}: job {', '.join(jobs)} of this run is in the queue; `hierlm cancel {run_dir.path}` first"]
