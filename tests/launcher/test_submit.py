import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from hierlm.errors import UserError
from launcher import preflight
from launcher.cli import run
from launcher.cluster import ClusterProfile
from launcher.slurm.client import run_command
from launcher.submit.run import submit_run
from tests.config.making import config, write
from tests.conftest import ROOT


@pytest.fixture
def data_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "data_problems", lambda config: [])


class Sbatch:
    """Stands in for Slurm and remembers what it was told."""

    def __init__(self, answer: str = "4711;cluster\n") -> None:
        self.answer = answer
        self.queue = ""
        self.refusal: str | None = None
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> str:
        if command[0] == "squeue":
            return self.queue
        if "--test-only" in command and self.refusal:
            raise UserError(self.refusal)
        if "--test-only" not in command:
            self.commands.append(list(command))
        return self.answer


def test_a_dry_run_prints_the_script_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "runs"
    site = ROOT / "configs" / "clusters" / "cpu.yaml"
    code = run(["submit", str(write(tmp_path)), f"run_root={root}", "--cluster", str(site), "--dry-run"])
    out = capsys.readouterr().out
    assert code == 0 and out.startswith("#!/usr/bin/env bash\n#SBATCH --job-name=run\n#SBATCH --output=")
    assert "\n#SBATCH --partition=cpu\n" in out
    assert out.rstrip().endswith(f'-m hierlm {root}/run "$@"')
    assert not root.exists()


def test_a_dry_run_as_json_is_one_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["submit", str(write(tmp_path)), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == "run" and document["script"].startswith("#!")


@pytest.mark.usefixtures("data_is_there")
def test_the_script_is_left_in_the_run_directory_and_handed_to_sbatch(tmp_path: Path) -> None:
    sbatch = Sbatch()
    run_config = config(tmp_path, f"run_root={tmp_path}/runs")
    done = submit_run(run_config, site=ClusterProfile(), command_line=["hierlm", "submit"], run_command=sbatch)
    script = done.run_dir.job_script
    assert sbatch.commands == [["sbatch", "--parsable", str(script)]]
    assert done.job_id == "4711" and "4711" in done.messages[-1]
    assert script.read_text().startswith("#!/usr/bin/env bash\n#SBATCH")
    assert done.run_dir.config.exists() and done.run_dir.logs.is_dir()


@pytest.mark.usefixtures("data_is_there")
def test_a_finished_run_is_not_submitted(tmp_path: Path) -> None:
    sbatch = Sbatch()
    run_config = config(tmp_path, f"run_root={tmp_path}/runs")
    first = submit_run(run_config, site=ClusterProfile(), command_line=[], run_command=sbatch)
    first.run_dir.finished.touch()
    again = submit_run(run_config, site=ClusterProfile(), command_line=[], run_command=sbatch)
    assert again.job_id is None and "is finished" in again.messages[0] and len(sbatch.commands) == 1


def test_nothing_is_written_when_something_speaks_against_it(tmp_path: Path) -> None:
    run_config = config(tmp_path, f"run_root={tmp_path}/runs", f"data.path={tmp_path}/nothing")
    with pytest.raises(Exception, match="nothing"):
        submit_run(run_config, site=ClusterProfile(), command_line=[], run_command=Sbatch())
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("data_is_there")
def test_what_slurm_would_refuse_is_not_written(tmp_path: Path) -> None:
    sbatch = Sbatch()
    sbatch.refusal = "sbatch: Requested node configuration is not available"
    with pytest.raises(UserError, match="node configuration"):
        submit_run(
            config(tmp_path, f"run_root={tmp_path}/runs"), site=ClusterProfile(), command_line=[], run_command=sbatch
        )
    assert not (tmp_path / "runs").exists() and not sbatch.commands


@pytest.mark.usefixtures("data_is_there")
def test_a_run_has_one_job_at_a_time(tmp_path: Path) -> None:
    sbatch = Sbatch()
    run_config = config(tmp_path, f"run_root={tmp_path}/runs")
    submit_run(run_config, site=ClusterProfile(), command_line=[], run_command=sbatch)
    sbatch.queue = "4711|RUNNING|None|1:00|2:00|N/A|2|node[1-2]|/elsewhere/job.sbatch\n"
    with pytest.raises(UserError, match="job 4711 of this run is in the queue; `hierlm cancel"):
        submit_run(run_config, site=ClusterProfile(), command_line=[], run_command=sbatch)
    assert len(sbatch.commands) == 1


def test_where_there_is_no_slurm_it_says_so() -> None:
    with pytest.raises(UserError, match="no-such-command: no such command here"):
        run_command(["no-such-command"])
