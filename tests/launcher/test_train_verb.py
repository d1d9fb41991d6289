"""`hierlm train` up to the processes; what the processes do is tested end to end elsewhere."""

import json
import sys
from pathlib import Path

import pytest

from hierlm.run_dir import RunDir
from launcher import job, preflight
from launcher.cli import run
from launcher.commands.train import outcome
from tests.config.making import write

SUMMARY = {
    "name": "tiny",
    "arch": "hourglass",
    "status": "finished",
    "seed": 1,
    "layout": {"zero_stage": 1},
    "num_parameters": 9,
    "num_non_embedding_parameters": 7,
    "steps": 3,
    "tokens_seen": 96,
    "wall_seconds": 2.0,
    "device_seconds": 2.0,
}
"""What a run that has finished says at least."""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that acts as `python -m hierlm RUN_DIR`: it prints noise and ends with the code in tmp/code."""
    monkeypatch.setattr(preflight, "data_problems", lambda config: [])
    program = tmp_path / "python"
    code = tmp_path / "code"
    code.write_text("0")
    program.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\nassert sys.argv[1:3] == ['-m', 'hierlm']\nprint('noise')\n"
        f"code = int(pathlib.Path({str(code)!r}).read_text())\n"
        "run = pathlib.Path(sys.argv[3])\n"
        "if code == 0:\n"
        "    (run / 'FINISHED').touch()\n"
        f"    (run / 'summary.json').write_text({json.dumps(SUMMARY)!r})\n"
        "sys.exit(code)\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(job.sys, "executable", str(program))
    return code


def train(tmp_path: Path, *words: str) -> int:
    return run(["train", str(write(tmp_path)), f"run_root={tmp_path}/runs", *words])


@pytest.mark.parametrize("code", ["0", "1", "2", "85"])
def test_the_exit_code_is_that_of_the_job(tmp_path: Path, stand_in: Path, code: str) -> None:
    stand_in.write_text(code)
    assert train(tmp_path) == int(code)


def test_a_second_time_it_says_that_the_run_is_finished(
    tmp_path: Path, stand_in: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path) == 0
    capfd.readouterr()
    stand_in.write_text("1")  # nothing is started
    assert train(tmp_path) == 0
    assert "is finished" in capfd.readouterr().out


def test_with_json_there_is_one_document(tmp_path: Path, stand_in: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stand_in.write_text("85")
    assert train(tmp_path, "--json") == 85
    assert json.loads(capfd.readouterr().out)["state"] == "stopped"
    stand_in.write_text("0")
    assert train(tmp_path, "--json") == 0
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert (document["state"], document["exit_code"]) == ("finished", 0)
    assert SUMMARY.items() <= document["summary"].items()
    assert "noise" in err


def test_missing_data_is_told_before_anything_is_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, f"data.path={tmp_path}/nothing") == 2
    err = capfd.readouterr().err
    assert f"{tmp_path}/nothing" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("bad", [b"\xff", b"[1]", b"{", b"null", b"[" * 5000])
def test_a_damaged_summary_is_no_traceback(bad: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.summary.write_bytes(bad)
    assert outcome(run_dir, 0)["summary"] is None
    assert "summary.json: cannot be read" in capfd.readouterr().err
