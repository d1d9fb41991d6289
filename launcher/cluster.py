"""The site profile: what a cluster needs to be told, and nothing about the model."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from hierlm.config.file import read_file
from hierlm.strict import Strict
from launcher.header_text import HeaderText, Word

TIME_LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d{1,3}):(?P<minutes>[0-5]\d)(?::[0-5]\d)?")


class Container(Strict):
    """Where the code runs when the nodes themselves lack Python."""

    runtime: Literal["apptainer", "pyxis"]
    image: str = Field(description="apptainer: a .sif file; pyxis: an image name or .sqsh file")
    mounts: tuple[str, ...] = Field(default=(), description="SOURCE:TARGET, or one path for both")


class Fabric(Strict):
    """What the network should carry, in 1e9 bytes a second and direction; `hierlm doctor --fabric` compares."""

    all_reduce_gigabytes_per_second: PositiveFloat | None = Field(
        default=None, description="of one process's link, over as many processes as are measured"
    )
    link_in_node_gigabytes_per_second: PositiveFloat | None = Field(
        default=None, description="from one process to the next on the same node"
    )
    link_between_nodes_gigabytes_per_second: PositiveFloat | None = Field(
        default=None, description="from a process to one of the next node"
    )
    least_share: float = Field(default=0.7, gt=0, le=1, description="of a figure; less is called wrong")


class ClusterProfile(Strict):
    """One file of configs/clusters. Every field has a default that works on a cluster without rules of its own."""

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: HeaderText | None = Field(default=None, description="node features, Slurm's own syntax")
    reservation: Word | None = None
    time_limit: str = Field(default="24:00:00", description="of one job: HH:MM:SS or D-HH:MM:SS, whole minutes")
    max_nodes: PositiveInt | None = Field(default=None, description="the largest job the site allows")
    min_nodes: PositiveInt | None = Field(
        default=None,
        description="a job goes on with fewer nodes, down to this many, when some are lost; default: never",
    )
    processes_per_node: PositiveInt = Field(default=8, description="most training processes on one node: one per GPU")
    gpus_per_process: NonNegativeInt = Field(default=1, description="0 on a CPU cluster")
    device: Literal["h100", "h200", "a100"] | None = Field(
        default=None, description="what the GPUs are: a run that does not fit their memory is refused before the queue"
    )
    gres: Word | None = Field(default=None, description="e.g. gpu:h100; asks --gres instead of --gpus-per-node")
    cpu_bind: Word | None = Field(
        default=None, description="srun --cpu-bind, e.g. cores: each process stays on its cores"
    )
    gpu_bind: Word | None = Field(default=None, description="srun --gpu-bind, e.g. closest: a GPU of the own NUMA node")
    cpus_per_task: PositiveInt = Field(default=8, description="cores of one training process")
    memory: Word | None = Field(default=None, description="of one node, e.g. 240G; 0 = all of it")
    modules: tuple[Word, ...] = Field(default=(), description="`module load` names")
    venv: str | None = Field(default=None, description="folder of a virtual environment to activate")
    conda_env: str | None = Field(default=None, description="conda environment to activate")
    container: Container | None = None
    fabric: Fabric | None = Field(default=None, description="what the network should carry")
    environment: dict[str, str] = Field(default_factory=dict, description="exported in the job, e.g. NCCL settings")
    setup: tuple[str, ...] = Field(default=(), description="shell lines run once on the first node before training")
    sbatch_lines: tuple[HeaderText, ...] = Field(default=(), description="further options, e.g. --mail-type=FAIL")
    signal_margin_seconds: PositiveInt = Field(default=180, description="warning before the time limit; > time to save")
    max_starts: PositiveInt = Field(default=100, description="of one submission, whatever ended them")
    max_starts_without_progress: PositiveInt = Field(
        default=5, description="in a row from the same checkpoint, before a run that cannot get on is given up"
    )
    requeue: bool = Field(default=True, description="let Slurm start the job again after a stop, preemption, lost node")

    @field_validator("time_limit")
    @classmethod
    def a_time_slurm_reads(cls, text: str) -> str:
        if TIME_LIMIT.fullmatch(text) is None or _minutes(text) == 0:
            raise ValueError("allowed: HH:MM:SS or D-HH:MM:SS, at least one minute, in quotes")
        return text

    @field_validator("setup")
    @classmethod
    def single_lines(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        if any(line.splitlines() not in ([], [line]) or "\0" in line for line in lines):
            raise ValueError("allowed: one line per item")
        return lines

    @field_validator("environment")
    @classmethod
    def names_the_shell_accepts(cls, variables: dict[str, str]) -> dict[str, str]:
        wrong = [name for name in variables if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: not a name for an environment variable")
        if any("\0" in value for value in variables.values()):
            raise ValueError("a value holds a zero byte, which no environment can")
        return variables

    @property
    def time_limit_minutes(self) -> int:
        return _minutes(self.time_limit)


def load_cluster(path: str | Path) -> ClusterProfile:
    """The profile of a YAML file; UserError lists everything wrong with it."""
    return read_file(ClusterProfile, path)


def _minutes(text: str) -> int:
    match = TIME_LIMIT.fullmatch(text)
    assert match is not None
    return int(match["days"] or 0) * 24 * 60 + int(match["hours"]) * 60 + int(match["minutes"])
