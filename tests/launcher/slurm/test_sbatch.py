"""Rendered scripts against golden files (HIERLM_UPDATE_GOLDEN=1 writes them anew: read the diff)."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.slurm.sbatch import TRAIN_SCRIPT, header_word, render
from tests.launcher.making import job

GOLDEN = Path(__file__).parent / "golden"
PYTHON = "/repo/.venv/bin/python"
NASTY = '/runs/it\'s a "dir" $HOME `id` #1 50%j'

CASES: dict[str, dict[str, Any]] = {
    "plain": {"num_nodes": 1, "tasks_per_node": 2},
    "everything": {
        "num_nodes": 4,
        "tasks_per_node": 8,
        "site": {
            "partition": "gpu",
            "account": "my-project",
            "qos": "long",
            "constraint": "h100|h200",
            "reservation": "night",
            "time_limit": "2-00:00:00",
            "gres": "gpu:h100",
            "cpus_per_task": 12,
            "memory": "0",
            "modules": ["gcc/12", "cuda/12.4"],
            "conda_env": "my env",
            "environment": {"NCCL_SOCKET_IFNAME": "ib0", "GREETING": "it's me"},
            "setup": ["ulimit -n 65536"],
            "sbatch_lines": ["--exclusive", "--mail-type=FAIL"],
            "signal_margin_seconds": 300,
            "requeue": False,
        },
    },
    "cpu-venv": {"site": {"gpus_per_process": 0, "venv": "/opt/my venv"}},
    "apptainer": {
        "site": {"container": {"runtime": "apptainer", "image": "/img/h m.sif", "mounts": ["/scratch", "/a:/b"]}}
    },
    "pyxis": {"site": {"container": {"runtime": "pyxis", "image": "docker://x/y:1", "mounts": ["/a:/b", "/c"]}}},
    "nasty-path": {"run_dir": Path(NASTY), "command": (PYTHON, "-m", "hierlm", NASTY)},
    "line-break": {"run_dir": Path("/runs/two\nlines"), "command": (PYTHON, "-m", "hierlm", "/runs/two\nlines")},
}


def rendered(case: str) -> str:
    fields = {"run_dir": Path("/runs/run"), "command": (PYTHON, "-m", "hierlm", "/runs/run"), **CASES[case]}
    return render(job(fields.pop("run_dir"), **fields), train_script=Path("/repo/slurm/train.sh"))


@pytest.mark.parametrize("case", CASES)
def test_the_script_is_the_golden_one(case: str) -> None:
    path = GOLDEN / f"{case}.sbatch"
    if os.environ.get("HIERLM_UPDATE_GOLDEN"):
        path.write_text(rendered(case))
    assert rendered(case) == path.read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_script_is_shellcheck_clean(case: str, tmp_path: Path) -> None:
    script = tmp_path / "job.sbatch"
    script.write_text(rendered(case))
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # files that exist on the cluster only cannot be followed; values are quoted so that nothing in them expands
    done = subprocess.run(
        [shellcheck, "--exclude=SC1090,SC1091,SC2016", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", ["nasty-path", "line-break"])
def test_bash_reads_back_the_very_paths(case: str, tmp_path: Path) -> None:
    train = tmp_path / "train.sh"
    train.write_text('#!/bin/bash\nprintf "%s\\0" "$PWD" "$@"\n')
    train.chmod(0o755)
    folder = tmp_path / CASES[case]["run_dir"].name
    (folder / "logs").mkdir(parents=True)
    spec = job(folder, command=("python", "-m", "hierlm", str(folder)), working_dir=folder)
    script = tmp_path / "job.sbatch"
    script.write_text(render(spec, train_script=train))
    environment = {**os.environ, "SLURM_JOB_ID": "7"}
    done = subprocess.run(["bash", script], capture_output=True, text=True, env=environment, check=True)
    redirected = folder / "logs" / "job-7.log"
    told = redirected.read_text() if redirected.exists() else done.stdout
    assert told.split("\0")[:-1] == [str(folder), "--", "python", "-m", "hierlm", str(folder)]


def test_a_header_line_holds_no_line_break() -> None:
    headers = [line for line in rendered("line-break").splitlines() if line.startswith("#SBATCH")]
    assert not any("--output" in line for line in headers)
    assert "exec >>'/runs/two\nlines/logs'/job-\"$SLURM_JOB_ID\".log 2>&1" in rendered("line-break")


def test_the_header_ends_before_the_first_command() -> None:
    """sbatch stops reading options there."""
    for case in CASES:
        lines = rendered(case).splitlines()
        last_header = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
        assert all(line.startswith("#") for line in lines[: last_header + 1])


@pytest.mark.parametrize("text", ["plain", "a b", 'say "x"', "it's", "#1", "a\\b", "50%j"])
def test_header_words_are_read_as_one_word(text: str) -> None:
    assert shlex.split(header_word(text), comments=True) == [text]


def test_the_script_that_a_job_runs_is_there() -> None:
    assert TRAIN_SCRIPT.is_file()
