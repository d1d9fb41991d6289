"""A dataset prepared by Slurm: one job settles splits and tokenizer, an array does the parts, a last one the index."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipeline.masking import holds_secret, masked
from hierlm.errors import UserError
from hierlm.run_dir import RunDir
from launcher.cluster import ClusterProfile
from launcher.job import JobSpec
from launcher.prepare_run import write_whole
from launcher.slurm import client
from launcher.slurm.client import RunCommand, run_command
from launcher.slurm.sbatch import header, header_options, log_redirection, name_and_log, software

JOBS_SUFFIX = ".jobs"
"""Of the folder beside the dataset that holds scripts and logs."""

NOT_IN_A_NAME, LONGEST_NAME = re.compile(r"[^A-Za-z0-9._-]+"), 120


class Stage(NamedTuple):
    """One of the three jobs."""

    name: str
    words: tuple[str, ...]  # added to the user's own command
    array: str | None = None


def stages(parts: int) -> list[Stage]:
    """Each starts when all of the one before has ended well; a part that was put back goes on where it was."""
    return [
        Stage("plan", ("--plan", "--resume")),
        Stage("parts", ("--part", "$SLURM_ARRAY_TASK_ID"), array=f"0-{parts - 1}"),
        Stage("merge", ("--resume",)),
    ]


def submit_preparation(
    words: Sequence[str],
    *,
    output: Path,
    parts: int,
    site: ClusterProfile,
    run_command: RunCommand = run_command,
) -> list[str]:
    """Put the jobs of `hierlm WORDS` into the queue; their ids. UserError when Slurm refuses one, or for one part."""
    if parts < 2:
        raise UserError(f"--parts: given {parts} with --cluster, allowed: at least 2, the tasks of the array job")
    if secret := next((word for word in words if holds_secret(word)), None):
        raise UserError(
            f"{masked(secret)}: its secret would stand in the job scripts; let the command read it from a file or from "
            "the environment of the job"
        )
    folder = output.absolute().with_name(output.name + JOBS_SUFFIX)
    folder.mkdir(parents=True, exist_ok=True)
    scripts = [folder / f"{stage.name}.sbatch" for stage in stages(parts)]
    for stage, script in zip(stages(parts), scripts, strict=True):
        write_whole(script, render(stage, words, folder=folder, site=site))
    refusals = [client.refusal(script, run_command=run_command) for script in scripts]
    if any(refusals):
        raise UserError([refusal for refusal in refusals if refusal])
    job_ids: list[str] = []
    for script in scripts:
        after = [f"--dependency=afterok:{job_ids[-1]}", "--kill-on-invalid-dep=yes"] if job_ids else []
        job_ids.append(client.submit(script, options=after, run_command=run_command))
    return job_ids


def render(stage: Stage, words: Sequence[str], *, folder: Path, site: ClusterProfile) -> str:
    """The script of one stage: one task on one node, without GPUs."""
    alone = site.model_copy(update={"gpus_per_process": 0})
    command = (sys.executable, "-m", "launcher", *words)
    name = f"{NOT_IN_A_NAME.sub('_', folder.stem)[:LONGEST_NAME]}-{stage.name}"
    job = JobSpec(name, RunDir(folder), Path.cwd(), command, 1, 1, alone)
    log = folder / "job-%j.log"
    named = [*name_and_log(job, log), *([f"--array={stage.array}"] if stage.array else [])]
    added = " ".join(word if word.startswith("$") else shlex.quote(word) for word in stage.words)
    lines = [
        "#!/usr/bin/env bash",
        *header([*named, *header_options(job)]),
        "set -eo pipefail",
        *log_redirection(log),
        f"cd {shlex.quote(os.getcwd())}",
        *software(alone),
        *alone.setup,
        f"exec {shlex.join(job.command)} {added}",
    ]
    return "\n".join(lines) + "\n"
