"""One writer per run: an attempt that was paused while another went on wakes, writes nothing and ends by itself."""

import json
import os
import signal
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import pytest

from tests.conftest import ROOT, hierlm, hierlm_path, quiet_environment
from tests.end_to_end.attempts import attempt_elsewhere
from tests.end_to_end.test_resume import arguments, digest, records, started, wait_for_step, worker_ids
from tests.tracking.servers import until

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NUM_RANKS = 2


def contents(run: Path) -> dict[str, bytes]:
    """All that belongs to the run as a whole: no logs, no temporary names of attempts."""
    files = [path for path in run.rglob("*") if path.is_file() and run / "logs" not in path.parents]
    return {str(path.relative_to(run)): path.read_bytes() for path in files if ".g1." not in str(path)}


def attempts(run: Path) -> list[tuple[str, int]]:
    return [(r["event"], r["attempt"]) for r in map(json.loads, (run / "attempts.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def whole(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Any]:
    """Records and digest of the run never interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    hierlm(*arguments(tiny_dataset, "whole"), cwd=folder)
    return records(folder / "runs" / "whole"), digest("whole", folder)


def test_a_paused_attempt_woken_after_its_successor_changes_nothing(
    tiny_dataset: Path, whole: tuple[list[dict[str, Any]], Any], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "paused"
    older = started(tiny_dataset, "paused", tmp_path)
    wait_for_step(run, 12)
    paused = worker_ids(run)
    assert len(paused) == NUM_RANKS
    for process in paused:
        os.kill(process, signal.SIGSTOP)

    refused = hierlm(*arguments(tiny_dataset, "paused"), cwd=tmp_path, check=False)
    assert refused.returncode == 2 and "trains it on this machine" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1

    newer = attempt_elsewhere(run, num_ranks=NUM_RANKS, log=tmp_path / "newer.log")
    assert [process.wait(timeout=900) for process in newer] == [0, 0]
    assert "resumed from" in (tmp_path / "newer.log").read_text()
    before = contents(run)
    assert records(run) == whole[0]

    for process in paused:
        os.kill(process, signal.SIGCONT)
    output, _ = older.communicate(timeout=900)
    assert older.returncode == 86, output
    assert "has taken over this run; this one stops" in output
    assert contents(run) == before
    assert digest("paused", tmp_path) == whole[1]
    assert attempts(run) == [("start", 1), ("start", 2), ("end", 2)]


def test_of_two_attempts_that_start_at_once_one_trains_the_run_and_the_other_stops(
    tiny_dataset: Path, whole: tuple[list[dict[str, Any]], Any], tmp_path: Path
) -> None:
    """No step begins before the second one has been refused or has taken the run over: then one must stop."""
    run, halt = tmp_path / "runs" / "double", tmp_path / "halt"
    halt.touch()
    injected = {"PYTHONPATH": str(ROOT / "tests" / "injected"), "HIERLM_TEST_HALT": str(halt)}
    command, said = (
        [hierlm_path(), *arguments(tiny_dataset, "double")],
        {"stdout": PIPE, "stderr": STDOUT, "text": True},
    )
    both = [Popen(command, cwd=tmp_path, env={**quiet_environment(), **injected}, **said) for _ in range(2)]
    until(
        lambda: (run / "leases" / "generation-00000002").exists() or any(p.poll() is not None for p in both),
        what="the second attempt",
        seconds=900,
    )
    halt.unlink()
    output = [process.communicate(timeout=900)[0] for process in both]
    codes = sorted(process.returncode for process in both)
    assert codes in ([0, 86], [0, 2]), output
    assert records(run) == whole[0]
    assert digest("double", tmp_path) == whole[1]
