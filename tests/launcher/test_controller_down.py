"""Slurm's programs that fail have not said that there are no jobs: a verb that asks them tells the truth, exit 1."""

import json
import os
import subprocess
from pathlib import Path
from time import monotonic, sleep

import pytest

from hierlm.run_dir import RunDir
from launcher.slurm.job_history import read_history, record_submit
from tests.config.making import write
from tests.conftest import hierlm, hierlm_path, quiet_environment
from tests.launcher.runs.test_view import CONFIG

DOWN = "#!/bin/sh\necho '{name}: error: Unable to contact slurm controller (connect failure)' >&2\nexit 1\n"
QUEUED = "#!/bin/sh\necho '7|RUNNING|None|1:00|2:00|N/A|1|node1|/elsewhere'\n"


class Site:
    """A login node whose Slurm programs are given, and a submitted run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for name in ("squeue", "scancel", "sbatch", "scontrol", "sacct"):
            self.program(name, DOWN.format(name=name))
        self.run = RunDir(folder / "runs" / "job")
        self.run.logs.mkdir(parents=True)
        self.run.config.write_text(CONFIG)
        record_submit(self.run, job_id="7")

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def hierlm(self, *arguments: object, path: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**quiet_environment(), "PATH": path or f"{self.bin}:{os.environ['PATH']}"}
        return hierlm(*arguments, cwd=self.folder, environment=environment, check=False)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_cancel_does_not_say_that_nothing_runs(site: Site) -> None:
    done = site.hierlm("cancel", "job")
    assert done.returncode == 1 and "nothing of it" not in done.stdout
    assert "job 7 may wait or run and was not cancelled" in done.stderr
    answer = json.loads(site.hierlm("cancel", "job", "--json").stdout)
    assert answer["cancelled_jobs"] == [] and "job 7 may wait or run" in answer["problems"][0]


def test_a_job_that_scancel_could_not_reach_is_not_cancelled(site: Site) -> None:
    site.program("squeue", QUEUED)
    done = site.hierlm("cancel", "job")
    assert done.returncode == 1 and "job 7 cancelled" not in done.stdout
    assert "job 7 could not be cancelled" in done.stderr and "Unable to contact" in done.stderr
    assert [event["event"] for event in read_history(site.run)] == ["submit", "cancel", "not cancelled"]
    site.program("squeue", DOWN.format(name="squeue"))
    assert "state unknown" in site.hierlm("status", "job").stdout


def test_a_job_that_ended_by_itself_meanwhile_is_no_trouble(site: Site) -> None:
    site.program("squeue", '#!/bin/sh\n[ -e asked ] || echo "7|RUNNING|None|1:00|2:00|N/A|1|node1|/x"\ntouch asked\n')
    site.program("scancel", "#!/bin/sh\necho 'scancel: error: Invalid job id specified' >&2\nexit 1\n")
    done = site.hierlm("cancel", "job")
    assert (done.returncode, done.stdout) == (0, "job 7 cancelled\n"), done.stderr


def test_cancel_of_a_run_that_never_saw_slurm_is_as_ever(site: Site) -> None:
    site.run.jobs.unlink()
    done = site.hierlm("cancel", "job")
    assert done.returncode == 0 and "nothing of it waits or runs" in done.stdout


def test_without_slurm_programs_a_submitted_run_cannot_be_cancelled_from_here(site: Site) -> None:
    for path in site.bin.iterdir():
        path.unlink()
    done = site.hierlm("cancel", "job", path=str(site.bin))
    assert done.returncode == 1 and "Slurm cannot be asked from here" in done.stderr


def test_status_says_that_it_does_not_know(site: Site) -> None:
    done = site.hierlm("status", "job", "--json")
    assert done.returncode == 1 and "Slurm cannot be asked" in done.stderr
    assert json.loads(done.stdout)["state"] == "unknown"
    site.run.finished.touch()
    assert site.hierlm("status", "job").returncode == 0  # the run's own files have said it


def test_accounting_that_does_not_answer_is_no_failure_of_the_run(site: Site) -> None:
    site.program("squeue", "#!/bin/sh\n")
    site.program("scontrol", "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n")
    done = site.hierlm("status", "job")
    assert done.returncode == 1 and "state unknown" in done.stdout
    site.program("sacct", "#!/bin/sh\necho 'Slurm accounting storage is disabled' >&2\nexit 1\n")
    done = site.hierlm("status", "job")
    assert done.returncode == 0 and "left the queue without a start" in done.stdout


@pytest.mark.slow
def test_following_goes_on(site: Site) -> None:
    (site.run.logs / "job-7.log").write_text("before\n")
    (site.bin / "squeue").write_text(f"#!/bin/sh\necho asked >> {site.folder}/asked\nexit 1\n")
    environment = {**quiet_environment(), "PATH": f"{site.bin}:{os.environ['PATH']}"}
    command = [hierlm_path(), "logs", "job", "-f"]
    follower = subprocess.Popen(command, cwd=site.folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None and follower.stdout.readline() == "before\n"
    deadline = monotonic() + 60
    while not _times_asked(site) >= 2:
        assert follower.poll() is None and monotonic() < deadline  # it has not taken the run for ended
        sleep(0.05)
    (site.run.logs / "job-7.log").write_text("before\nbehind\n")
    assert follower.stdout.readline() == "behind\n"
    follower.terminate()
    follower.communicate()


def _times_asked(site: Site) -> int:
    asked = site.folder / "asked"
    return len(asked.read_text().splitlines()) if asked.exists() else 0


@pytest.mark.parametrize("sweep", [(), ("--array", "seed=1,2")])
def test_nothing_is_submitted_beside_jobs_that_may_be_there(
    site: Site, tiny_dataset: Path, sweep: tuple[str, ...]
) -> None:
    words = (write(site.folder), f"data.path={tiny_dataset}", "name=other", *sweep)
    done = site.hierlm("submit", *words)
    assert done.returncode == 1 and "Unable to contact" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (site.folder / "runs" / "other").exists()
    both = site.hierlm("submit", *words, "data.path=/no/data")
    assert both.returncode == 2 and "/no/data" in both.stderr and "Unable to contact" in both.stderr
