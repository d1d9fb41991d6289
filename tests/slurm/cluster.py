"""One throw-away Slurm of slurm/test-cluster.sh, as tests use it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "slurm" / "test-cluster.sh"
PATIENCE = 4
"""How much longer than on a quiet machine things may take on one with ten processes for every core."""


class TestCluster:
    """Brings a cluster up; `environment` points Slurm's programs at it. It ends with this process at the latest."""

    __test__ = False

    def __init__(self, *options: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="hlm-"))
        self._script("up", "--owner", str(os.getpid()), *options)
        self.environment = {**os.environ, "SLURM_CONF": str(self.directory / "etc" / "slurm.conf")}
        self.has_namespaces = 'mode="namespaces"' in (self.directory / "place").read_text()

    def down(self) -> None:
        """Jobs, nodes and daemons end; nothing is left."""
        self._script("down")
        shutil.rmtree(self.directory, ignore_errors=True)

    def node(self, action: str, name: str) -> str:
        """`kill`, `fail`, `term`, `start`, `cut`, `heal` or `status` of node1, node2, ..."""
        return self._script("node", action, name)

    def run(self, *command: str, check: bool = True, cwd: Path | None = None) -> str:
        """Stdout of a command that talks to the cluster."""
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, text=True, capture_output=True, check=False, timeout=120 * PATIENCE
        )
        assert not check or done.returncode == 0, f"{command}: rc {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        words = self.run("scontrol", "-o", "show", "job", job_id).split()
        return dict(word.partition("=")[::2] for word in words)

    def wait_for_state(self, job_id: str, *states: str, seconds: float) -> str:
        """Poll until the job is in one of the states."""
        wait_until(lambda: self.job(job_id)["JobState"] in states, seconds=seconds, what=lambda: self.run("squeue"))
        return self.job(job_id)["JobState"]

    def _script(self, verb: str, *arguments: str) -> str:
        command = ["bash", str(SCRIPT), verb, *arguments, "--dir", str(self.directory)]
        done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=120 * PATIENCE)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout.strip()


def why_no_slurm() -> str | None:
    """The reason why no cluster can be started on this machine, if there is one."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=path) is None]
    if missing:
        return f"no Slurm on this machine ({', '.join(missing)} not found): `sudo slurm/test-cluster.sh install`"
    return None if os.geteuid() == 0 else "only root can start a throw-away Slurm"


def wait_until(
    holds: Callable[[], bool], *, seconds: float, what: Callable[[], str] = lambda: "", every: float = 0.1
) -> None:
    """Poll until `holds()`; AssertionError with `what()` after `seconds` of a quiet machine."""
    deadline = monotonic() + PATIENCE * seconds
    while not holds():
        assert monotonic() < deadline, f"still not so after {PATIENCE * seconds} s: {what()}"
        sleep(every)
