"""From a config to a job in the queue: preflight, run directory, job script, sbatch."""

from collections.abc import Sequence
from dataclasses import dataclass

from hierlm.config.run_config import RunConfig
from hierlm.models.config import ModelConfig
from hierlm.run_dir import RunDir
from launcher.cluster import ClusterProfile
from launcher.job import JobSpec, cluster_job
from launcher.job_history import record_submit
from launcher.preflight import refuse_what_cannot_run
from launcher.prepare_run import prepare_run, run_dir_of, write_whole
from launcher.sbatch import render
from launcher.slurm import RunCommand, run_command, submit

Config = RunConfig[ModelConfig]


@dataclass(frozen=True)
class Submission:
    """What became of it; `job_id` is None for a run that is finished already. `messages` are lines for the user."""

    run_dir: RunDir
    job_id: str | None
    messages: tuple[str, ...]


def job_of(config: Config, *, site: ClusterProfile) -> JobSpec:
    """The job a config means on a site; nothing is written."""
    return cluster_job(config, run_dir=run_dir_of(config), site=site)


def submit_run(
    config: Config, *, site: ClusterProfile, command_line: Sequence[str], run_command: RunCommand = run_command
) -> Submission:
    """Write the run directory with its job script and hand that to sbatch; UserError with every reason against it."""
    script = render(job_of(config, site=site))
    refuse_what_cannot_run(config)
    prepared = prepare_run(config, command_line=command_line)
    run_dir = prepared.run_dir
    if prepared.is_finished:
        return Submission(run_dir, job_id=None, messages=prepared.messages)
    write_whole(run_dir.job_script, script)
    job_id = submit(run_dir.job_script, run_command=run_command)
    record_submit(run_dir, job_id=job_id)
    line = f"job {job_id} submitted for {run_dir.path}; its script: {run_dir.job_script}"
    return Submission(run_dir, job_id=job_id, messages=(*prepared.messages, line))
