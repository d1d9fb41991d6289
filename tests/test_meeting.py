"""The file by which the processes of a job find each other: whole or not there, and of one start alone."""

import threading
import time
from pathlib import Path

import pytest

from hierlm.meeting import announce, announced_port, meeting_file
from hierlm.run_dir import RunDir

STEP = {"SLURM_JOB_ID": "20123", "SLURM_STEP_ID": "0"}


def test_whoever_waits_for_the_file_reads_the_whole_port(tmp_path: Path) -> None:
    found: list[int] = []
    waiting = threading.Thread(target=lambda: found.append(announced_port(tmp_path / "here", timeout_seconds=60)))
    waiting.start()
    time.sleep(0.1)
    assert not found
    announce(40321, tmp_path / "here")
    waiting.join()
    assert found == [40321]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_a_first_process_that_never_comes_is_told(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="rank 0 has not written where it listens within 0 s"):
        announced_port(tmp_path / "here", timeout_seconds=0)


def test_who_starts_the_processes_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIERLM_MEETING_FILE", str(tmp_path / "here"))
    assert meeting_file(RunDir(tmp_path / "run")) == meeting_file(None) == tmp_path / "here"


def test_every_start_of_a_slurm_step_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HIERLM_MEETING_FILE", raising=False)
    run_dir, seen = RunDir(tmp_path / "run"), set()
    for change in ({}, {"SLURM_JOB_ID": "123"}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"}):
        with monkeypatch.context() as environment:
            for name, value in {**STEP, **change}.items():
                environment.setenv(name, value)
            seen.add(meeting_file(run_dir))
    assert len(seen) == 4 and {file.parent for file in seen if file} == {run_dir.path}


def test_without_a_launcher_and_without_slurm_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HIERLM_MEETING_FILE", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    assert meeting_file(RunDir(tmp_path)) is None
