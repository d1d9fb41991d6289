"""A sweep as one job array: every member is a run with a directory and a job script of its own."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hierlm.config.load import load_config
from hierlm.errors import UserError
from hierlm.run_dir import RunDir
from launcher.cluster import ClusterProfile
from launcher.job import JobSpec
from launcher.prepare_run import write_whole
from launcher.slurm import client
from launcher.slurm.array import members, sweep_dir, write_sweep
from launcher.slurm.client import RunCommand, run_command
from launcher.slurm.job_history import record_submit
from launcher.slurm.sbatch import header, header_options, header_word
from launcher.submit.run import Config, job_of, place_run, problems_before_the_queue


@dataclass(frozen=True)
class SweepSubmission:
    """One array; member i is task i of it. `messages` are lines for the user."""

    directory: Path
    runs: tuple[RunDir, ...]
    job_id: str | None
    messages: tuple[str, ...]


def load_members(path: str | Path, overrides: Sequence[str], axes: Sequence[str]) -> tuple[str, list[Config]]:
    """(the sweep's name, the checked config of every member); UserError with every problem of any of them."""
    base = load_config(path, overrides).name
    configs: list[Config] = []
    problems: list[str] = []
    sweep = members(base, axes)
    for member in sweep:
        own = (*member.overrides, f"tracking.sweep_size={len(sweep)}", f"name={member.name}")
        try:
            configs.append(load_config(path, [*overrides, *own]))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return base, configs


def submit_sweep(
    base: str,
    configs: Sequence[Config],
    *,
    site: ClusterProfile,
    command_line: Sequence[str],
    at_once: int | None = None,
    run_command: RunCommand = run_command,
) -> SweepSubmission:
    """Write all members and hand them to sbatch as one array; at most `at_once` of them run at a time.

    UserError with every reason against any of them. Members that are finished are left out.
    """
    jobs = [job_of(config, site=site) for config in configs]
    problems = shape_problems(jobs)
    for config in configs:
        problems += problems_before_the_queue(config, site=site, run_command=run_command)
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    prepared = [place_run(config, site=site, command_line=command_line) for config in configs]
    runs = tuple(each.run_dir for each in prepared if not each.is_finished)
    messages = [line for each in prepared for line in each.messages]
    directory = sweep_dir(Path(configs[0].run_root).expanduser(), base)
    write_sweep(directory, [each.run_dir for each in prepared])
    if not runs:
        return SweepSubmission(directory, runs, None, tuple(messages))
    script = directory / "job.sbatch"
    write_whole(script, render_array(base, jobs[0], runs, at_once=at_once))
    job_id = client.submit(script, run_command=run_command)
    for index, run in enumerate(runs):
        record_submit(run, job_id=f"{job_id}_{index}")
    messages += [f"job {job_id}_{index} submitted for {run.path}" for index, run in enumerate(runs)]
    return SweepSubmission(directory, runs, job_id, tuple(messages))


def render_array(base: str, job: JobSpec, runs: Sequence[RunDir], *, at_once: int | None = None) -> str:
    """The array's script: task i becomes the job script of member i. `job` has the shape of every member."""
    return "\n".join(_array_lines(base, job, runs, at_once)) + "\n"


def _array_lines(base: str, job: JobSpec, runs: Sequence[RunDir], at_once: int | None) -> Iterator[str]:
    limit = f"%{at_once}" if at_once else ""
    yield "#!/usr/bin/env bash"
    yield from header(
        [
            f"--array=0-{len(runs) - 1}{limit}",
            f"--job-name={header_word(base)}",
            "--output=/dev/null",  # each member writes its own log
            *header_options(job),
        ]
    )
    yield "\nmembers=("
    yield from (f"    {shlex.quote(str(run.path.absolute()))}" for run in runs)
    yield ")\n\nrun_dir=${members[$SLURM_ARRAY_TASK_ID]}"
    yield 'exec >>"$run_dir/logs/job-${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID.log" 2>&1'
    yield 'exec bash "$run_dir/job.sbatch"'


def shape_problems(jobs: Sequence[JobSpec]) -> list[str]:
    """Whether one array can hold jobs of these shapes: all its tasks get the same nodes."""
    shapes = {(job.num_nodes, job.tasks_per_node): job for job in jobs}
    if len(shapes) == 1:
        return []
    needs = "; ".join(f"{job.name} needs {nodes} x {tasks}" for (nodes, tasks), job in shapes.items())
    return [f"--array: its members need different jobs (nodes x processes): {needs}; submit them apart"]
