"""The job script: a readable header, exports, one `exec slurm/train.sh`. A pure function of the JobSpec."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from hierlm.errors import UserError
from launcher.cluster import ClusterProfile, Container
from launcher.header_text import header_text, is_header_text
from launcher.job import JobSpec
from launcher.provenance import SOURCE_ROOT

TRAIN_SCRIPT = SOURCE_ROOT / "slurm" / "train.sh"


def header(options: Iterable[str]) -> list[str]:
    """The only place where header lines are made. UserError for an option that would not stay on its own line."""
    lines = list(options)
    for option in lines:
        try:
            header_text(option)
        except ValueError as error:
            name = option.partition("=")[0]
            raise UserError(f"{name[:40]!a} of the job's header: {error}; mend the cluster file") from None
    return [f"#SBATCH {option}" for option in lines]


def fits_a_header(log: Path) -> bool:
    """Whether a header line can hold the path; after a backslash Slurm would no longer fill in the job id."""
    return "\\" not in str(log) and is_header_text(header_word(_without_patterns(log)))


def render(job: JobSpec, *, train_script: Path = TRAIN_SCRIPT) -> str:
    """The whole script, which may be submitted again by plain `sbatch`."""
    log = job.run_dir.logs / "job-%j.log"
    blocks = [  # no `set -u`: `module` and conda's scripts read unset variables
        ["#!/usr/bin/env bash", *header(name_and_log(job, log)), *header(header_options(job))],
        ["set -eo pipefail", *log_redirection(log), f"cd {shlex.quote(str(job.working_dir))}"],
        [f"export {name}={shlex.quote(value)}" for name, value in sorted(_environment(job).items())],
        software(job.site),
        list(job.site.setup),
        [_exec_line(job, train_script)],
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def name_and_log(job: JobSpec, log: Path) -> Iterator[str]:
    """Header options; a log whose path no header line can hold is left to `log_redirection`."""
    yield f"--job-name={header_word(job.name)}"
    if fits_a_header(log):
        yield f"--output={header_word(_without_patterns(log))}"


def header_options(job: JobSpec) -> Iterator[str]:
    """What the job asks of the site; the site's own lines come last and so have the last word."""
    site = job.site
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        value = getattr(site, name)
        if value is not None:
            yield f"--{name}={header_word(value)}"
    yield from _shape(job)
    yield f"--cpus-per-task={site.cpus_per_task}"
    if job.gpus_per_node:
        yield (
            f"--gres={header_word(f'{site.gres}:{job.gpus_per_node}')}"
            if site.gres
            else f"--gpus-per-node={job.gpus_per_node}"
        )
    if site.memory is not None:
        yield f"--mem={header_word(site.memory)}"
    yield f"--time={site.time_limit}"
    yield f"--signal=B:USR1@{site.signal_margin_seconds}"  # to the batch shell, which passes it on to all tasks
    yield "--requeue" if site.requeue else "--no-requeue"
    yield "--open-mode=append"  # a requeued job writes the same log
    yield from site.sbatch_lines


def _shape(job: JobSpec) -> Iterator[str]:
    """A job that may shrink does not say its tasks: Slurm would give it as few nodes as hold them."""
    if not job.smaller:
        yield f"--nodes={job.num_nodes}"
        yield f"--ntasks-per-node={job.tasks_per_node}"
        return
    yield f"--nodes={job.smaller[-1][0]}-{job.num_nodes}"
    yield f"--mincpus={job.tasks_per_node * job.site.cpus_per_task}"


def header_word(text: str) -> str:
    """A value in an #SBATCH line; Slurm reads quotes and backslashes there much as a shell does."""
    if re.fullmatch(r"[\w./:@%+,=\[\]&|*-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _without_patterns(log: Path) -> str:
    """Slurm fills in %x patterns in the whole path; only our own %j is one."""
    return f"{str(log.parent).replace('%', '%%')}/{log.name}"


def log_redirection(log: Path) -> Iterator[str]:
    """A shell line that opens the log where the header cannot."""
    if not fits_a_header(log):
        yield f'exec >>{shlex.quote(str(log.parent))}/job-"$SLURM_JOB_ID".log 2>&1'


def _environment(job: JobSpec) -> dict[str, str]:
    """What the site wants, and what train.sh must know to count the run's starts and to shrink it."""
    smaller = " ".join(f"{num_nodes}:{degree}" for num_nodes, degree in job.smaller)
    shapes = {"HIERLM_TASKS_PER_NODE": str(job.tasks_per_node), "HIERLM_NUM_NODES": str(job.num_nodes)}
    return {
        **job.environment,
        **job.site.environment,
        **({**shapes, "HIERLM_SMALLER": smaller} if smaller else {}),
        "HIERLM_RUN_DIR": str(job.run_dir.path),
        "HIERLM_MAX_STARTS": str(job.site.max_starts),
        "HIERLM_MAX_STARTS_WITHOUT_PROGRESS": str(job.site.max_starts_without_progress),
    }


def software(site: ClusterProfile) -> list[str]:
    """Shell lines that bring the site's modules and environment."""
    lines = [f"module load {' '.join(map(shlex.quote, site.modules))}"] if site.modules else []
    if site.conda_env:
        lines += [
            'source "$(conda info --base)/etc/profile.d/conda.sh"',
            f"conda activate {shlex.quote(site.conda_env)}",
        ]
    if site.venv:
        lines.append(f"source {shlex.quote(str(Path(site.venv).expanduser() / 'bin' / 'activate'))}")
    return lines


def _exec_line(job: JobSpec, train_script: Path) -> str:
    """`exec train.sh [SRUN OPTIONS] -- COMMAND "$@"`; the links of a chain differ in what they are given."""
    srun_options, prefix = _container(job)
    parts = [
        shlex.join(["exec", str(train_script)]),
        *(shlex.quote(option) for option in (*_binding(job.site), *srun_options)),
        shlex.join(["--", *prefix, *job.command]) + ' "$@"',
    ]
    return " \\\n    ".join(parts)


def _binding(site: ClusterProfile) -> Iterator[str]:
    """Keeps each process near its memory."""
    if site.cpu_bind is not None:
        yield f"--cpu-bind={site.cpu_bind}"
    if site.gpu_bind is not None:
        yield f"--gpu-bind={site.gpu_bind}"


def _container(job: JobSpec) -> tuple[list[str], list[str]]:
    """(options of srun, words before the command) that put each process into the site's container."""
    container: Container | None = job.site.container
    if container is None:
        return [], []
    if container.runtime == "pyxis":
        options = [f"--container-image={container.image}", f"--container-workdir={job.working_dir}"]
        return options + ([f"--container-mounts={','.join(container.mounts)}"] if container.mounts else []), []
    gpu = ["--nv"] if job.gpus_per_node else []
    mounts = [word for mount in container.mounts for word in ("--bind", mount)]
    return [], ["apptainer", "exec", *gpu, "--pwd", str(job.working_dir), *mounts, container.image]
