"""Every path and file name of a run, once."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDir:
    """`<run_root>/<name>`: what one training run leaves on disk."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        """The resolved RunConfig, all of it."""
        return self.path / "config.yaml"

    def config_until(self, step: int) -> Path:
        """The config that made the steps up to this one, kept where the run was made longer."""
        return self.path / f"config.until-step-{step:08d}.yaml"

    @property
    def provenance(self) -> Path:
        return self.path / "provenance.json"

    @property
    def job_script(self) -> Path:
        return self.path / "job.sbatch"

    @property
    def attempts(self) -> Path:
        """One JSON object per start and one per end of an attempt."""
        return self.path / "attempts.jsonl"

    @property
    def leases(self) -> Path:
        """Who may write here: one file per attempt, the highest generation holds the run."""
        return self.path / "leases"

    @property
    def jobs(self) -> Path:
        """One JSON object per submission to Slurm, start and end of a job, and cancellation."""
        return self.path / "jobs.jsonl"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step, evaluation or summary: the truth the tracker follows."""
        return self.path / "metrics.jsonl"

    @property
    def tracker_state(self) -> Path:
        """Run ids at the tracker and how much of `metrics` it has."""
        return self.path / "tracker.json"

    @property
    def identity(self) -> Path:
        """A uuid made once: a run deleted and started again under its old name is another run."""
        return self.path / "run-uuid"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def console_log(self) -> Path:
        """What runs outside Slurm have said on the terminal; a job has its own log."""
        return self.logs / "console.log"

    def rank_log(self, rank: int) -> Path:
        """Everything a process and its libraries print."""
        return self.logs / f"rank-{rank:04d}.log"

    def profile_trace(self, rank: int) -> Path:
        """What a process did in the steps of `train.profile`, for Perfetto or chrome://tracing."""
        return self.path / "profile" / f"rank-{rank:04d}.trace.json.gz"

    def profile_table(self, rank: int) -> Path:
        """Where its time went."""
        return self.path / "profile" / f"rank-{rank:04d}.txt"

    @property
    def heartbeats(self) -> Path:
        """What every rank of the present attempt is doing."""
        return self.path / "heartbeats"

    def meeting_file(self, start: str) -> Path:
        """Where the processes of one start find each other; gone once they have."""
        return self.path / f"meeting-{start}"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def finished(self) -> Path:
        """Exists once the last step, the last checkpoint and the last evaluation are done."""
        return self.path / "FINISHED"

    @property
    def summary(self) -> Path:
        """The numbers a comparison shows: parameters, tokens, time, memory, final losses."""
        return self.path / "summary.json"


def ways_out(run_dir: RunDir) -> list[str]:
    """One line for each link in a run, itself included, that leads out of the folder the run lies in.

    Whoever can put a link there could have this user's files overwritten, so nothing is written by way of it.
    """
    root = os.path.realpath(run_dir.path.parent)
    places = [path for path in _links(run_dir.path) if not _is_below(os.path.realpath(path), root)]
    return [
        f"{path}: is a link to {os.path.realpath(path)}, out of {root}: nothing is written there; "
        "remove it, or move all runs with run_root=DIR"
        for path in places
    ]


def _links(path: Path) -> Iterator[Path]:
    """The run, what is in it, and what is in its folders, as far as they are links."""
    if path.is_symlink():
        yield path
    for entry in _entries(path):
        if entry.is_symlink():
            yield Path(entry.path)
        elif entry.is_dir():
            yield from (Path(inner.path) for inner in _entries(Path(entry.path)) if inner.is_symlink())


def _entries(path: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(path) as found:
            return list(found)
    except OSError:
        return []


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
