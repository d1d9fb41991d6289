"""Slurm's answers, read; the real programs are met in tests/slurm."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from hierlm.errors import UserError
from launcher.slurm import client

SQUEUE = """\
12|RUNNING|None|1-02:03:04|5:06|2026-01-02T03:04:05|2|node[1-2]|/runs/a|b/job.sbatch --until x
13_4|PENDING|Dependency|0:00|10:00:00|N/A|1||/runs/c/job.sbatch
14|PENDING|BeginTime|0:00|UNLIMITED|2026-01-02T03:04:05|1||(null)
"""


class Answers:
    """Stands in for Slurm: a text or an error for each program."""

    def __init__(self, **answers: str | UserError) -> None:
        self.answers = answers
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> str:
        self.commands.append(list(command))
        answer = self.answers[command[0]]
        if isinstance(answer, UserError):
            raise answer
        return answer


def test_the_queue_is_read_field_by_field() -> None:
    running, member, held = client.queue(run_command=Answers(squeue=SQUEUE))
    assert (running.job_id, running.is_waiting, running.reason, running.starts_at) == ("12", False, None, None)
    assert running.elapsed_seconds == 26 * 3600 + 3 * 60 + 4 and running.seconds_left == 306
    assert running.nodes == "node[1-2]" and running.command == "/runs/a|b/job.sbatch --until x"
    assert (member.job_id, member.is_waiting, member.reason, member.starts_at) == ("13_4", True, "Dependency", None)
    assert held.starts_at == "2026-01-02T03:04:05" and held.seconds_left is None and held.nodes is None


def test_an_empty_queue_is_no_job() -> None:
    assert client.queue(run_command=Answers(squeue="\n")) == []


@pytest.mark.parametrize(
    ("scontrol", "sacct", "state"),
    [
        ("JobId=7 JobName=JobState=X JobState=FAILED Reason=None", "", "FAILED"),
        (UserError("Invalid job id"), "CANCELLED by 0\nCANCELLED\n", "CANCELLED"),
        (UserError("Invalid job id"), UserError("Slurm accounting storage is disabled"), None),
        (UserError("Invalid job id"), "\n", None),
    ],
)
def test_accounting_is_asked_last_and_may_be_missing(
    scontrol: str | UserError, sacct: str | UserError, state: str | None
) -> None:
    assert client.final_state("7", run_command=Answers(scontrol=scontrol, sacct=sacct)) == state


def test_a_job_script_is_submitted_with_its_options_and_arguments() -> None:
    sbatch = Answers(sbatch="77;cluster\n")
    job_id = client.submit(
        Path("/r/job.sbatch"), options=["--begin=now"], arguments=["--until", "x"], run_command=sbatch
    )
    assert job_id == "77"
    assert sbatch.commands == [["sbatch", "--parsable", "--begin=now", "/r/job.sbatch", "--until", "x"]]


def test_a_refusal_is_told_and_nothing_is_submitted() -> None:
    sbatch = Answers(sbatch=UserError("sbatch: no such partition"))
    assert client.refusal(Path("/r/job.sbatch"), run_command=sbatch) == "sbatch: no such partition"
    assert sbatch.commands == [["sbatch", "--test-only", "/r/job.sbatch"]]
    assert client.refusal(Path("/r/job.sbatch"), run_command=Answers(sbatch="")) is None


def test_a_failing_command_is_one_line() -> None:
    script = "echo 'false: error: first' >&2; echo 'false: error: second thing' >&2; exit 3"
    with pytest.raises(UserError) as caught:
        client.run_command(["bash", "-c", script])
    assert caught.value.problems == ("bash: false: error: second thing",)
