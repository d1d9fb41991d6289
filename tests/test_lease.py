"""The highest generation holds the run: one winner of many, no number twice, and no rename after a newcomer's sweep."""

import errno
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hierlm.lease import Lease, TakenOverError, holder, take


def test_the_newest_lease_is_the_only_current_one(tmp_path: Path) -> None:
    leases = [take(tmp_path / "leases") for _ in range(3)]
    assert [lease.generation for lease in leases] == [1, 2, 3]
    assert [lease.is_current() for lease in leases] == [False, False, True]
    with pytest.raises(TakenOverError, match=rf"another attempt \(.*process {os.getpid()}, since .*this one stops"):
        leases[0].require_current()


def generation_taken(directory: Path) -> int:
    return take(directory).generation


def test_of_many_who_start_at_once_each_gets_a_number_of_its_own(tmp_path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(6) as processes:
        taken = processes.map(generation_taken, [tmp_path] * 60, chunksize=1)
    assert sorted(taken) == list(range(1, 61))
    assert not list(tmp_path.glob(".draft-*"))


def test_without_hard_links_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: take(tmp_path), range(40)))
    assert sorted(lease.generation for lease in taken) == list(range(1, 41))
    assert sum(lease.is_current() for lease in taken) == 1


def test_a_link_that_was_made_counts_though_its_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network file system repeats a request whose answer did not come, and hears that the name is there."""
    really_link = os.link

    def link(source: Path, target: Path) -> None:
        really_link(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", link)
    assert take(tmp_path).generation == 1
    assert take(tmp_path).generation == 2


def test_a_directory_removed_and_made_again_is_another_run(tmp_path: Path) -> None:
    older = take(tmp_path / "leases")
    for path in (tmp_path / "leases").iterdir():
        path.unlink()
    assert not older.is_current()
    take(tmp_path / "leases")
    assert not older.is_current()


def test_what_was_ready_to_be_renamed_is_taken_away(tmp_path: Path) -> None:
    """Whatever the older attempt had asked before, its rename finds nothing."""
    place = tmp_path / "run"
    place.mkdir()
    older = take(tmp_path / "leases")
    ready = older.temporary(place / "latest")
    ready.write_text("old")
    newer = take(tmp_path / "leases", sweep=(place,))
    newer.write(place / "latest", "new")
    with pytest.raises(FileNotFoundError):
        ready.rename(place / "latest")
    with pytest.raises(TakenOverError):
        older.write(place / "latest", "old")
    assert (place / "latest").read_text() == "new"


def test_a_sweep_leaves_newer_ones_alone(tmp_path: Path) -> None:
    newer = replace(take(tmp_path / "leases"), generation=7)
    ready = newer.temporary(tmp_path / "latest")
    ready.write_text("of generation 7")
    take(tmp_path / "leases", sweep=(tmp_path,))
    assert ready.exists()


HOLD = """
import sys, time
from pathlib import Path
from hierlm.lease import take
take(Path(sys.argv[1]))
print(flush=True)
time.sleep(60)
"""


@pytest.fixture
def held(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process that has taken the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_holder_is_alive_here_until_it_ends(tmp_path: Path, held: subprocess.Popen[str]) -> None:
    claim = holder(tmp_path)
    assert claim is not None and claim.pid == held.pid and claim.is_alive_here()
    held.send_signal(signal.SIGSTOP)
    assert claim.is_alive_here(), "paused is alive"
    held.kill()
    deadline = time.monotonic() + 60
    while claim.is_alive_here() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not claim.is_alive_here(), "its exit status, not yet read, is no life"
    held.wait()
    assert not claim.is_alive_here()


def test_another_process_of_the_same_number_or_machine_is_not_the_holder(
    tmp_path: Path, held: subprocess.Popen[str]
) -> None:
    claim = holder(tmp_path)
    assert claim is not None and claim.is_alive_here()
    for other in ({"process_start": "1"}, {"boot": "another"}, {"host": "elsewhere"}, {"process_start": ""}):
        assert not replace(claim, **other).is_alive_here(), other
    held.kill()
    held.wait()


def test_nobody_holds_a_run_that_never_began(tmp_path: Path) -> None:
    assert holder(tmp_path / "leases") is None
    take(tmp_path)
    (tmp_path / "generation-00000002").write_text("torn {")
    assert holder(tmp_path) is None


def test_a_lease_that_cannot_be_read_is_no_permission(tmp_path: Path) -> None:
    lease: Lease = take(tmp_path / "leases")
    (tmp_path / "leases").rename(tmp_path / "elsewhere")
    (tmp_path / "leases").write_text("not a directory")
    with pytest.raises(OSError):
        lease.require_current()


@pytest.mark.parametrize("function", ["listdir", "open"])
def test_a_stale_handle_is_asked_again_by_name(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, module = take(tmp_path / "leases"), os if function == "listdir" else io
    for num_failures, errors in ((1, ()), (2, (errno.ESTALE,))):
        left, real = [num_failures], getattr(module, function)

        def stale(*arguments: Any, left: list[int] = left, real: Any = real, **named: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise OSError(errno.ESTALE, "Stale file handle")
            return real(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(module, function, stale)
            if errors:
                with pytest.raises(OSError, match="Stale"):
                    lease.is_current()
            else:
                assert lease.is_current()
        assert lease.is_current()
