import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from launcher import doctor
from launcher.cli import run
from tests.conftest import ROOT, hierlm_path


def test_a_probe_answers_with_its_last_line_or_its_last_complaint() -> None:
    assert doctor.ask("print('noise'); print('{\"a\": 1}')") == {"a": 1}
    assert doctor.ask("import no_such_package") == {"error": "ModuleNotFoundError: No module named 'no_such_package'"}


def test_the_gpus_are_told_by_name_and_memory() -> None:
    device = {"name": "H100", "memory_bytes": 80 * 1024**3}
    found = {"version": "2.13", "cuda": "13.0", "nccl": "2.29", "gloo": True, "devices": [device, device]}
    torch, gpus = doctor.torch(found)
    assert torch.detail == "2.13, CUDA 13.0, gloo, NCCL 2.29"
    assert (gpus.state, gpus.detail) == ("ok", "H100 80.0 GiB, H100 80.0 GiB")


def test_a_missing_torch_is_wrong_a_missing_gpu_is_not() -> None:
    (check,) = doctor.torch({"error": "no torch"})
    assert (check.state, check.detail) == ("wrong", "no torch")
    cpu_only = {"version": "2", "cuda": None, "nccl": None, "gloo": True, "devices": []}
    assert [check.state for check in doctor.torch(cpu_only)] == ["ok", "absent"]


def test_what_is_not_needed_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor.slurm().state == "absent"
    assert doctor.compiler().state == "absent"


def test_the_tracker_is_asked(tmp_path: Path) -> None:
    assert doctor.tracker("none").state == "absent"
    assert doctor.tracker(f"sqlite:///{tmp_path}/new/mlflow.db").state == "ok"
    assert doctor.tracker("sqlite:////proc/mlflow.db").state == "wrong"
    assert doctor.tracker("http://127.0.0.1:9").state == "absent"  # nobody listens on the discard port


def test_a_tracker_that_listens_is_there() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        check = doctor.tracker(f"http://127.0.0.1:{server.server_port}")
        thread.join()
    assert check.state == "ok"


def test_the_verb_reports_and_judges(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [doctor.Check("python", "ok", "3"), doctor.Check("torch", "wrong", "none")]
    monkeypatch.setattr(doctor, "examine", lambda **_: iter(checks))
    assert run(["doctor"]) == 1
    assert capsys.readouterr().out == "ok      python         3\nwrong   torch          none\n"
    assert run(["doctor", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["healthy"] is False and [check["name"] for check in document["checks"]] == ["python", "torch"]


@pytest.mark.slow
def test_this_machine_can_train(capsys: pytest.CaptureFixture[str]) -> None:
    run(["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["torch"]["state"] == checks["deepspeed"]["state"] == checks["python"]["state"] == "ok"


AUDIT = """
import os, sys

def note(event, arguments):
    if event in ("open", "os.mkdir", "os.rename", "os.symlink", "os.link"):
        is_writing = event != "open" or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        path = os.path.abspath(os.fsdecode(arguments[0])) if isinstance(arguments[0], (str, bytes)) else ""
        if is_writing and path and not path.startswith(("/dev/", "/proc/")):
            os.write(log, (path + "\\n").encode())

log = os.open(os.environ["WRITTEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
sys.addaudithook(note)
"""


@pytest.mark.slow
def test_nothing_is_written_outside_the_checkout(tmp_path: Path) -> None:
    """By whatever it imports and starts in Python; a compiler obeys TMPDIR. MLflow's telemetry leaves a file, too."""
    for name in ("home", "temporary", "here", "injected"):
        (tmp_path / name).mkdir()
    (tmp_path / "injected" / "sitecustomize.py").write_text(AUDIT)
    places = {"HOME": "home", "TMPDIR": "temporary", "PYTHONPATH": "injected", "WRITTEN": "written"}
    named = {name: str(tmp_path / place) for name, place in places.items()}
    named["PATH"] = os.environ["PATH"]  # and nothing else: under pytest MLflow counts nobody by itself
    done = subprocess.run(
        [hierlm_path(), "doctor", "--json"],
        cwd=tmp_path / "here",
        env=named,
        capture_output=True,
        text=True,
        check=False,
    )
    checks = {check["name"]: check["state"] for check in json.loads(done.stdout)["checks"]}
    assert checks["torch"] == checks["deepspeed"] == "ok", done.stdout
    written = set((tmp_path / "written").read_text().splitlines()) - {str(tmp_path / "written")}
    own = (str(tmp_path / "here"), str(ROOT), os.path.realpath(sys.prefix), os.path.realpath(sys.base_prefix))
    assert [path for path in written if not path.startswith(own)] == []
    assert not any((tmp_path / "home").rglob("*")) and not any((tmp_path / "temporary").iterdir())
    assert not any((tmp_path / "here").iterdir())
