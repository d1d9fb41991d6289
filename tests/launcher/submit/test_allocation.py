"""`hierlm train` inside an allocation: what srun prints is passed on as long as somebody takes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SRUN = """#!/usr/bin/env bash
trap 'echo killed >"$PLACE/broken"; exit 1' PIPE
for number in $(seq 2000); do echo "line $number" || exit 1; done
echo done >"$PLACE/done"
exit 85
"""

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from launcher.submit.allocation import run
from tests.launcher.making import job
sys.exit(run(job(Path("run"), command=("true",), working_dir=Path("."))))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PLACE": str(tmp_path), "SLURM_JOB_NUM_NODES": "2"}


@pytest.mark.parametrize("where", ["| true", ">/dev/full", "| tail -n 1"])
def test_srun_prints_to_the_end_whoever_reads(where: str, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM.format(root=str(ROOT)))
    script = f"{{ {sys.executable} program.py; echo $? >code; }} {where}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=300
    )
    assert (tmp_path / "done").exists() and not (tmp_path / "broken").exists()
    assert (tmp_path / "code").read_text() == "85\n", done.stderr
    assert done.stdout == ("line 2000\n" if "tail" in where else "")
