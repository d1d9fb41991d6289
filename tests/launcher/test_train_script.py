"""slurm/train.sh with stand-ins for srun and scontrol; the real ones are met in tests/slurm."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest

from tests.conftest import ROOT

TRAIN = ROOT / "slurm" / "train.sh"
PATIENCE_SECONDS = 120

SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$PLACE/srun-arguments"
env >"$PLACE/srun-environment"
trap 'echo USR1 >>"$PLACE/signals"; stop=yes' USR1
[ "$MODE" = deaf ] && trap - USR1
touch "$PLACE/started"
[ "$MODE" = exit ] && exit "$CODE"
for _ in $(seq 2400); do
  [ -n "${stop:-}" ] && sleep 0.3 && exit "$CODE"
  [ -e "$PLACE/end" ] && [ -n "$LAST_WORD" ] && kill -s "$LAST_WORD" "$PPID"
  [ -e "$PLACE/end" ] && exit "$CODE"
  sleep 0.05
done
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >>"$PLACE/scontrol-calls"
[ "$1" = requeue ] && exit "${REQUEUE_CODE:-0}"
case "$*" in *"show job"*) echo "JobId=1 ${JOB:-JobState=RUNNING Reason=None Restarts=0} Requeue=1"; exit ;; esac
printf 'node7\\nnode8\\n'
"""


class Batch:
    """One execution of train.sh."""

    def __init__(self, place: Path, *, mode: str, code: int, **environment: str) -> None:
        self.place = place
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            (place / name).write_text(text)
            (place / name).chmod(0o755)
        slurm = {"SLURM_JOB_ID": "20123", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_CPUS_PER_TASK": "3"}
        path = {"PATH": f"{place}:{os.environ['PATH']}", "PLACE": str(place)}
        clean = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS" and not k.startswith("SLURM_")}
        said = {"MODE": mode, "CODE": str(code), "LAST_WORD": "", **environment}
        self.process = subprocess.Popen(
            [TRAIN, "--container-image=a b", "--", "python", "-m", "hierlm", "/runs/it's a run"],
            env={**clean, **slurm, **path, **said},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def signalled(self, number: signal.Signals) -> "Batch":
        deadline = monotonic() + PATIENCE_SECONDS
        while not (self.place / "started").exists():
            assert monotonic() < deadline
            sleep(0.02)
        self.process.send_signal(number)
        return self

    def end(self) -> tuple[int, str]:
        output = self.process.communicate(timeout=PATIENCE_SECONDS)[0]
        return self.process.returncode, output

    def text(self, name: str) -> str:
        return (self.place / name).read_text() if (self.place / name).exists() else ""

    @property
    def requeued(self) -> bool:
        return "requeue 20123" in self.text("scontrol-calls")


def test_one_task_per_process_meets_on_the_first_node(tmp_path: Path) -> None:
    batch = Batch(tmp_path, mode="exit", code=0, MASTER_PORT="29500")  # of the shell that submitted the job
    assert batch.end()[0] == 0
    arguments = batch.text("srun-arguments").splitlines()
    assert arguments[-5:] == ["--container-image=a b", "python", "-m", "hierlm", "/runs/it's a run"]
    assert "--cpus-per-task=3" in arguments and "--kill-on-bad-exit=0" in arguments
    environment = dict(line.split("=", 1) for line in batch.text("srun-environment").splitlines() if "=" in line)
    assert environment["MASTER_ADDR"] == "node7" and "MASTER_PORT" not in environment
    assert environment["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize("code", [0, 1, 2, 127, 137])
def test_the_exit_code_is_that_of_the_processes(tmp_path: Path, code: int) -> None:
    batch = Batch(tmp_path, mode="exit", code=code)
    assert batch.end()[0] == code
    assert batch.requeued == (code not in (0, 2))


def test_a_job_whose_run_was_taken_over_ends_for_good_and_says_nothing_in_the_account(tmp_path: Path) -> None:
    """Back in the queue it would take the run over in its turn."""
    run = tmp_path / "run"
    run.mkdir()
    code, output = (batch := Batch(tmp_path, mode="exit", code=86, HIERLM_RUN_DIR=str(run))).end()
    assert code == 86 and "another attempt has taken over the run" in output
    assert not batch.requeued
    assert [json.loads(line)["event"] for line in (run / "jobs.jsonl").read_text().splitlines()] == ["start"]


def test_stopped_processes_put_the_job_back_into_the_queue(tmp_path: Path) -> None:
    batch = Batch(tmp_path, mode="exit", code=85)
    assert batch.end()[0] == 85
    assert batch.requeued


def test_a_job_that_cannot_be_requeued_says_what_to_do(tmp_path: Path) -> None:
    code, output = Batch(tmp_path, mode="exit", code=85, REQUEUE_CODE="1").end()
    assert code == 85 and "submit it again" in output


def test_the_warning_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    batch = Batch(tmp_path, mode="wait", code=85).signalled(signal.SIGUSR1)
    assert batch.end()[0] == 85
    assert batch.text("signals") == "USR1\n"
    assert batch.requeued


def test_a_warning_that_comes_just_before_the_end_changes_nothing(tmp_path: Path) -> None:
    batch = Batch(tmp_path, mode="wait", code=0).signalled(signal.SIGUSR1)
    assert batch.end()[0] == 0
    assert not batch.requeued


def test_a_warning_before_the_processes_can_listen_is_a_stop(tmp_path: Path) -> None:
    batch = Batch(tmp_path, mode="deaf", code=85).signalled(signal.SIGUSR1)
    assert batch.end()[0] == 85
    assert batch.requeued


def test_a_cancelled_job_is_not_put_back(tmp_path: Path) -> None:
    state = "JobState=COMPLETING Reason=None Restarts=0"
    batch = Batch(tmp_path, mode="wait", code=85, JOB=state).signalled(signal.SIGTERM)
    (tmp_path / "end").touch()  # Slurm itself has signalled the tasks
    assert batch.end()[0] == 85
    assert not batch.requeued


def test_a_preempted_job_is_put_back_by_slurm_alone(tmp_path: Path) -> None:
    state = "JobState=COMPLETING Reason=None Restarts=1"
    batch = Batch(tmp_path, mode="wait", code=85, JOB=state).signalled(signal.SIGTERM)
    (tmp_path / "end").touch()
    assert batch.end()[0] == 85
    assert not batch.requeued


def test_at_the_time_limit_the_job_is_put_back_before_the_processes_end(tmp_path: Path) -> None:
    state = "JobState=COMPLETING Reason=TimeLimit Restarts=0"
    batch = Batch(tmp_path, mode="wait", code=85, JOB=state).signalled(signal.SIGTERM)
    deadline = monotonic() + PATIENCE_SECONDS
    while not batch.requeued:
        assert monotonic() < deadline
        sleep(0.05)
    assert batch.process.poll() is None
    (tmp_path / "end").touch()
    assert batch.end()[0] == 85
    assert batch.text("scontrol-calls").count("requeue") == 1


@pytest.mark.parametrize("request_to_stop", ["TERM", "USR1"])
def test_a_request_at_the_very_moment_the_processes_end_does_not_hide_how_they_ended(
    tmp_path: Path, request_to_stop: str
) -> None:
    """Eight jobs: bash 5.2 gave one in two of them exit code 255 when a signal interrupted its `wait` just then."""
    places = [tmp_path / str(number) for number in range(8)]
    for place in places:
        place.mkdir()
        (place / "end").touch()
    jobs = [Batch(place, mode="wait", code=86, LAST_WORD=request_to_stop) for place in places]
    assert [job.end()[0] for job in jobs] == [86] * 8


def test_outside_a_job_it_says_so(tmp_path: Path) -> None:
    code, output = Batch(tmp_path, mode="exit", code=0, SLURM_JOB_ID="").end()
    assert code == 2 and "hierlm train" in output
    done = subprocess.run([TRAIN, "python"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_every_shell_script_is_shellcheck_clean() -> None:
    scripts = sorted(ROOT.glob("slurm/**/*.sh"))
    assert TRAIN in scripts
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, "--external-sources", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
