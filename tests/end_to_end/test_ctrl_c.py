"""Ctrl-C is told as what it was; and the run that it stopped goes on, with whatever has become of its small files."""

import json
import signal
import subprocess
from pathlib import Path
from time import monotonic, sleep

import pytest

from hierlm.run_dir import RunDir
from hierlm.tracking.jsonl import read_records
from tests.conftest import ROOT, hierlm, hierlm_path, quiet_environment
from tests.end_to_end.test_stdout_gone import SETTINGS


@pytest.mark.slow
def test_ctrl_c_is_sigint_and_damaged_files_keep_no_run_from_going_on(tiny_dataset: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS.split(), "phases.0.duration.steps=400", "name=stopped", f"data.path={tiny_dataset}"]
    command = [hierlm_path(), "train", str(ROOT / "configs" / "tiny" / "transformer.yaml"), *settings]
    process = subprocess.Popen(command, cwd=tmp_path, env=quiet_environment(), stdout=subprocess.DEVNULL)
    run, deadline = RunDir(tmp_path / "runs" / "stopped"), monotonic() + 600
    while not (run.console_log.exists() and "step 3/" in run.console_log.read_text()):
        assert monotonic() < deadline and process.poll() is None
        sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == 85
    assert json.loads(run.attempts.read_text().splitlines()[-1])["why"] == "stopped (SIGINT)"
    told = json.loads(hierlm("status", "stopped", "--json", cwd=tmp_path).stdout)
    assert (told["state"], told["reason"]) == ("stopped", "SIGINT")
    for path in (run.attempts, run.metrics):
        path.write_bytes(b"\xff\xfe\n[3]\n" + path.read_bytes())
    for path in (run.provenance, run.summary, run.config, run.tracker_state):
        path.write_bytes(b"\xff\xfe{")
    again = hierlm(*command[1:], cwd=tmp_path)
    assert "config.yaml.damaged" in again.stdout and "provenance.json.damaged" in again.stdout
    assert run.finished.exists() and json.loads(run.attempts.read_bytes().splitlines()[-1])["why"] == "finished"
    steps = [record["step"] for record in read_records(run.metrics) if record["kind"] == "train"]
    assert steps == list(range(1, 401))
