"""Local jobs of small stand-in programs: what is passed on to the processes, and how the job ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from time import monotonic, sleep

import pytest

from hierlm.meeting import rank_environment
from launcher.local import overall_exit_code, run
from tests.conftest import ROOT
from tests.launcher.making import job

PATIENCE_SECONDS = 120
"""Of a busy machine; what it bounds would else take 600."""

LISTENS = """
import os, signal, sys, time
from pathlib import Path
stop = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, frame: stop.append(number))
rank = os.environ["RANK"]
Path(f"pid-{rank}.partial").write_text(str(os.getpid()))
Path(f"pid-{rank}.partial").rename(f"pid-{rank}")
deadline = time.monotonic() + 600
while not stop and time.monotonic() < deadline:
    time.sleep(0.02)
Path(f"signal-{rank}").write_text(signal.Signals(stop[0]).name)
sys.exit(85)
"""


def run_program(folder: Path, program: str, *, num_processes: int = 2, **graces: float) -> int:
    command = (sys.executable, "-c", textwrap.dedent(program))
    return run(job(folder, command=command, num_nodes=1, tasks_per_node=num_processes, working_dir=folder), **graces)


def launched(folder: Path, program: str) -> subprocess.Popen[str]:
    """A launcher in a process of its own, once both ranks of `program` have written their pid."""
    (folder / "program.py").write_text(program)
    launcher = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.launcher.making import job
from launcher.local import run
folder = Path({str(folder)!r})
spec = job(folder, command=(sys.executable, "program.py"), num_nodes=1, tasks_per_node=2, working_dir=folder)
sys.exit(run(spec, failure_grace_seconds=2))
"""
    process = subprocess.Popen([sys.executable, "-c", launcher], stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (folder / "pid-0").exists() and (folder / "pid-1").exists())
    return process


def wait_for(condition: object, seconds: float = PATIENCE_SECONDS) -> None:
    deadline = monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert monotonic() < deadline, "did not happen in time"
        sleep(0.02)


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(folder: Path) -> list[int]:
    return [int((folder / f"pid-{rank}").read_text()) for rank in (0, 1)]


def test_every_process_is_told_its_place_and_one_meeting_point(tmp_path: Path) -> None:
    program = """
    import json, os
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "HIERLM_MEETING_FILE")
    json.dump({n: os.environ[n] for n in names}, open(f"told-{os.environ['RANK']}", "w"))
    """
    assert run_program(tmp_path, program, num_processes=3) == 0
    told = [json.loads((tmp_path / f"told-{rank}").read_text()) for rank in range(3)]
    assert [t["RANK"] for t in told] == [t["LOCAL_RANK"] for t in told] == ["0", "1", "2"]
    assert {(t["WORLD_SIZE"], t["LOCAL_WORLD_SIZE"], t["MASTER_ADDR"]) for t in told} == {("3", "3", "127.0.0.1")}
    (meeting,) = {t["HIERLM_MEETING_FILE"] for t in told}
    assert Path(meeting).parent == tmp_path and not Path(meeting).exists()


def test_threads_share_the_cores_unless_the_user_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    assert rank_environment(0, num_ranks=1, meeting=Path("meeting"))["OMP_NUM_THREADS"] == str(cores)
    assert rank_environment(0, num_ranks=10 * cores, meeting=Path("meeting"))["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert rank_environment(0, num_ranks=2, meeting=Path("meeting"))["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(
    ("codes", "killed", "forwarded", "expected"),
    [
        ([0, 0], [False, False], [], 0),
        ([85, 85], [False, False], [signal.SIGTERM], 85),
        ([85, 85], [False, False], [], 85),  # somebody signalled the processes themselves
        ([2, 2], [False, False], [], 2),
        ([2, -9], [False, True], [], 2),
        ([1, 2], [False, False], [], 2),
        ([1, 0], [False, False], [], 1),
        ([85, 1], [False, False], [signal.SIGTERM], 1),
        ([85, 0], [False, False], [signal.SIGTERM], 1),
        ([-9, -9], [False, True], [], 1),
        ([0, -9], [False, True], [], 1),  # one never ended
        ([-15, -15], [False, False], [signal.SIGTERM], 85),  # asked before they could listen
        ([-15, -9], [False, True], [signal.SIGTERM], 85),
        ([-15, -15], [False, False], [], 1),  # nobody asked through us
        ([-10, 85], [False, False], [signal.SIGUSR1], 85),
        ([86, 86], [False, False], [], 86),
        ([86, 1], [False, False], [], 86),  # the others lost their first process
        ([86, -9], [False, True], [], 86),
    ],
)
def test_the_job_ends_as_its_processes_do(
    codes: list[int], killed: list[bool], forwarded: list[int], expected: int
) -> None:
    assert overall_exit_code(codes, killed=killed, forwarded=forwarded) == expected


@pytest.mark.parametrize("code", [0, 1, 2, 85, 86])
def test_the_exit_code_of_all_is_the_exit_code_of_the_job(tmp_path: Path, code: int) -> None:
    assert run_program(tmp_path, f"raise SystemExit({code})") == code


def test_one_failure_ends_the_others_after_a_grace(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = """
    import os, time
    from pathlib import Path
    if os.environ["RANK"] == "1":
        while not Path("pid").exists():
            time.sleep(0.02)
        raise SystemExit(3)
    Path("pid.partial").write_text(str(os.getpid()))
    Path("pid.partial").rename("pid")
    time.sleep(600)
    """
    started = monotonic()
    assert run_program(tmp_path, program, failure_grace_seconds=1) == 1
    assert 1 <= monotonic() - started < PATIENCE_SECONDS
    assert not is_alive(int((tmp_path / "pid").read_text()))
    assert capfd.readouterr().err.strip().splitlines() == [
        f"hierlm: process 1 of 2 failed with exit code 3; its log: {tmp_path}/logs/rank-0001.log"
    ]


def test_a_process_that_hangs_after_the_others_are_done_is_ended(tmp_path: Path) -> None:
    program = "import os, time; time.sleep(600 * int(os.environ['RANK']))"
    assert run_program(tmp_path, program, ending_grace_seconds=0.5) == 1


def test_a_killed_process_is_told_with_its_signal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_program(tmp_path, "import os; os.kill(os.getpid(), 9)") == 1
    assert "was ended by SIGKILL, as the system does when memory runs out" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGUSR1, "SIGUSR1"),
        (signal.SIGUSR2, "SIGUSR2"),
        (signal.SIGINT, "SIGINT"),
        (signal.SIGHUP, "SIGTERM"),
    ],
)
def test_a_stop_request_reaches_every_process(tmp_path: Path, sent: signal.Signals, received: str) -> None:
    launcher = launched(tmp_path, LISTENS)
    launcher.send_signal(sent)
    assert launcher.wait(timeout=PATIENCE_SECONDS) == 85
    assert [(tmp_path / f"signal-{rank}").read_text() for rank in (0, 1)] == [received, received]


DEAF = LISTENS.replace("not stop and ", "")


def test_ctrl_c_twice_kills(tmp_path: Path) -> None:
    launcher = launched(tmp_path, DEAF)
    launcher.send_signal(signal.SIGINT)
    assert launcher.stderr is not None
    assert "Ctrl-C again kills" in launcher.stderr.readline() + launcher.stderr.readline()
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(timeout=PATIENCE_SECONDS) == 130
    assert not any(map(is_alive, pids(tmp_path)))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_the_processes_listen_counts_as_a_stop(tmp_path: Path, sent: signal.Signals) -> None:
    deaf = LISTENS.replace("signal.signal(number, lambda", "(lambda *_: None)(number, lambda")
    launcher = launched(tmp_path, "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)" + deaf)
    launcher.send_signal(sent)
    assert launcher.wait(timeout=PATIENCE_SECONDS) == 85


def test_nobody_is_left_when_the_launcher_is_killed(tmp_path: Path) -> None:
    launcher = launched(tmp_path, LISTENS)
    launcher.kill()
    launcher.wait(timeout=PATIENCE_SECONDS)
    wait_for(lambda: not any(map(is_alive, pids(tmp_path))))


def test_what_a_process_has_started_dies_with_it(tmp_path: Path) -> None:
    program = """
    import os, subprocess, sys, time
    from pathlib import Path
    if os.environ["RANK"] == "1":
        while not Path("child").exists():
            time.sleep(0.02)
        raise SystemExit(1)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path("child.partial").write_text(str(child.pid))
    Path("child.partial").rename("child")
    time.sleep(600)
    """
    assert run_program(tmp_path, program, failure_grace_seconds=0.2) == 1
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_alive(child))
