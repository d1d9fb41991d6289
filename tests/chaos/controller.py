"""The fault that needs a Slurm: its controller is gone while a job of the run trains and people ask about it."""

import atexit
import os
import random
import signal
import subprocess
from functools import lru_cache
from pathlib import Path

from hierlm.exit_codes import FAILED
from tests.chaos.faults import Strike
from tests.chaos.run import END_SECONDS, START_SECONDS, Run, wait_until
from tests.slurm.cluster import TestCluster
from tests.slurm.runs import Place

NUM_NODES = 2
STEPS_WITHOUT = 5


def controller_down(run: Run, draw: random.Random) -> Strike | None:
    """The job trains on without it; `cancel` cannot and says so; when it is back, it can, and the run goes on here."""
    run.rest()
    place, begun = Place(slurm(), run.folder, run.dataset), run.last_step()
    site = place.site(processes_per_node=run.kind.num_ranks // NUM_NODES)
    place.brake.touch()  # else it would be through before anybody has asked
    place.hierlm("submit", *run.command()[1:], "--cluster", site)
    trains = wait_until(lambda: run.last_step() > begun + 1, seconds=2 * START_SECONDS, or_when=lambda: run.is_finished)
    with ControllerDown(place.cluster):
        said = place.hierlm("cancel", run.name, check=False)
        target = run.last_step() + STEPS_WITHOUT
        went_on = wait_until(lambda: run.last_step() >= target or run.is_finished, seconds=START_SECONDS)
    code = said.returncode if "was not cancelled" in said.stderr else -1
    place.hierlm("cancel", run.name, check=False)
    place.brake.unlink()
    ended = wait_until(lambda: not place.cluster.run("squeue", "-h", check=False), seconds=END_SECONDS)
    if run.is_finished:
        return None
    told = f"steps {'' if trains and went_on else 'NOT '}made without it, the job ended by cancel: {ended}"
    return Strike(told, code if trains and went_on and ended else -1, (FAILED,))


@lru_cache(maxsize=1)
def slurm() -> TestCluster:
    """One for the campaign."""
    made = TestCluster("--nodes", str(NUM_NODES))
    atexit.register(made.down)
    return made


class ControllerDown:
    """slurmctld of a throw-away Slurm is killed for the time of the block."""

    def __init__(self, cluster: TestCluster) -> None:
        self._cluster = cluster
        self._pid_file = Path(cluster.directory) / "run" / "slurmctld.pid"

    def __enter__(self) -> None:
        pid = int(self._pid_file.read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not Path(f"/proc/{pid}").exists(), seconds=END_SECONDS)

    def __exit__(self, *_: object) -> None:
        conf = self._cluster.environment["SLURM_CONF"]
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        with (self._cluster.directory / "log" / "slurmctld.again").open("ab") as log:
            started = subprocess.Popen(
                ["slurmctld", "-D", "-f", conf],
                env={**self._cluster.environment, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        since = Path(f"/proc/{started.pid}/stat").read_text().rpartition(")")[2].split()[19]
        self._pid_file.write_text(f"{started.pid} {since}\n")  # as slurm/test-cluster/process.sh remembers it
        wait_until(lambda: "is UP" in self._cluster.run("scontrol", "ping", check=False), seconds=END_SECONDS)
