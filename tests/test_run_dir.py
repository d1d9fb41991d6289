"""A run is written where it lies: no link leads a file of it out of the folder of runs, and no name is foreseen."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hierlm.durable import write_synced, write_through
from hierlm.errors import UserError
from hierlm.lease import UNFENCED, take, take_away
from hierlm.meeting import announce
from hierlm.run_dir import RunDir, ways_out
from hierlm.tracking.jsonl import MetricsFile
from launcher.prepare_run import prepare_run, write_whole
from tests.config.making import config
from tests.conftest import ROOT, quiet_environment


def test_links_that_stay_in_the_folder_of_runs_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")  # the folder itself may lie anywhere
    run = tmp_path / "runs" / "a"
    (run / "logs").mkdir(parents=True)
    (tmp_path / "runs" / "shared").mkdir()
    (run / "checkpoints").symlink_to(tmp_path / "runs" / "shared")
    (run / "latest.log").symlink_to("logs/console.log")  # not there yet
    assert ways_out(RunDir(run)) == [] == ways_out(RunDir(tmp_path / "runs" / "none"))


@pytest.mark.parametrize(
    "place",
    ["", "logs", "checkpoints", "metrics.jsonl", "config.yaml", "logs/console.log", "checkpoints/step-00000001"],
)
@pytest.mark.parametrize("target", ["{}/elsewhere", "../../../elsewhere", "{}/runs-of-another"])
def test_a_link_that_leads_out_is_refused_for_writing(place: str, target: str, tmp_path: Path) -> None:
    for folder in ("elsewhere", "runs-of-another"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "kept").write_text("mine")
    run = tmp_path / "runs" / "run"
    link = run / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target.format(tmp_path) if "{}" in target else os.path.relpath(tmp_path / "elsewhere", link.parent))
    with pytest.raises(UserError, match=r"out of .*runs: nothing is written there") as refused:
        prepare_run(config(tmp_path, f"run_root={tmp_path / 'runs'}"), command_line=["hierlm"])
    assert len(refused.value.problems) == 1
    for folder in ("elsewhere", "runs-of-another"):
        assert [path.name for path in (tmp_path / folder).iterdir()] == ["kept"]


def test_a_process_of_a_job_asks_too(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (run / "logs").symlink_to(tmp_path / "elsewhere")
    words = [sys.executable, "-m", "hierlm", run]
    done = subprocess.run(words, cwd=ROOT, env=quiet_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "nothing is written there" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "elsewhere").iterdir())


def test_nothing_is_written_through_a_name_that_lies_ready(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "ready").symlink_to("victim")
    with pytest.raises(FileExistsError):
        write_through(tmp_path / "ready", "theirs")
    assert (tmp_path / "victim").read_text() == "mine"


def test_temporary_names_differ_each_time_and_are_new_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int]] = []
    sys.addaudithook(
        lambda event, args: (
            opened.append((str(args[0]), args[2]))
            if event == "open" and "partial" in str(args[0]) and str(tmp_path) in str(args[0])
            else None
        )
    )
    for _ in range(2):
        write_synced(tmp_path / "a", "x")
        write_whole(tmp_path / "b", "x")
        UNFENCED.write(tmp_path / "c", "x")
        announce(40_000, tmp_path / "d")
        MetricsFile(tmp_path / "e.jsonl").close()
    names = [name for name, _ in opened]
    assert len(names) == len(set(names)) == 10
    assert all(flags & os.O_EXCL for _, flags in opened)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d", "e.jsonl"]


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664), (0o022, 0o644)])
def test_files_have_the_permissions_the_user_wants(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        run = prepare_run(config(tmp_path, f"run_root={tmp_path / 'runs'}"), command_line=["hierlm"]).run_dir
        lease = take(run.leases)
        MetricsFile(run.metrics, lease=lease).close()
        lease.write(run.identity, "x")
    finally:
        os.umask(before)
    for path in run.path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (mode | (mode & 0o444) >> 2 if path.is_dir() else mode), path


def test_a_newcomer_sweeps_temporary_names_of_0_2_too(tmp_path: Path) -> None:
    for name in (
        ".metrics.jsonl.g1.partial",
        ".metrics.jsonl.g1.00ff00ff00ff00ff.partial",
        ".x.g2.00ff.partial",
        "x.g1.partial",
    ):
        (tmp_path / name).touch()
    take_away(tmp_path, generation=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.g2.00ff.partial", "x.g1.partial"]
