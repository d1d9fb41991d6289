"""One run as several dependent jobs: a job per phase, or time slices where a site does not requeue."""

from collections.abc import Sequence
from dataclasses import dataclass

from hierlm.phases.config import PhaseConfig
from hierlm.run_dir import RunDir
from launcher.slurm.client import RunCommand, run_command, submit
from launcher.slurm.job_history import record_submit


@dataclass(frozen=True)
class Link:
    """One job of a chain; `dependency` is Slurm's word for when it may follow the link before."""

    name: str
    arguments: tuple[str, ...]
    dependency: str


def phase_links(phases: Sequence[PhaseConfig]) -> list[Link]:
    """A job per phase; the next one starts only when the one before has reached its phase's end."""
    until = [("--until", phase.name) for phase in phases[:-1]]
    return [Link(phase.name, words, "afterok") for phase, words in zip(phases, [*until, ()], strict=True)]


def slice_links(count: int) -> list[Link]:
    """Jobs that each go on where the one before was stopped, however it ended; once the run is finished they end."""
    return [Link(f"slice {number} of {count}", (), "afterany") for number in range(1, count + 1)]


def submit_chain(run_dir: RunDir, links: Sequence[Link], *, run_command: RunCommand = run_command) -> list[str]:
    """Put every link into the queue, each after the one before; their job ids."""
    job_ids: list[str] = []
    for link in links:
        after = [f"--dependency={link.dependency}:{job_ids[-1]}", "--kill-on-invalid-dep=yes"] if job_ids else []
        job_ids.append(submit(run_dir.job_script, options=after, arguments=link.arguments, run_command=run_command))
        record_submit(run_dir, job_id=job_ids[-1], part=link.name)
    return job_ids
