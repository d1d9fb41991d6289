"""A save that finds no room, on a real disk of half a megabyte: what was there stays, and the next one works."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hierlm.checkpoint.commit import SaveError
from hierlm.checkpoint.find import newest_good
from hierlm.checkpoint.layout import step_dir
from hierlm.lease import take
from hierlm.tracking.jsonl import MetricsFile, read_records
from tests.checkpoint.making import contents, save

DISK_KIBIBYTES = 512
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KIBIBYTES}k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk can be mounted by root only, and not in every container")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(disk: Path, *, but_bytes: int) -> Path:
    """A file that leaves just so much room."""
    filler = disk / "filler"
    free = shutil.disk_usage(disk).free - but_bytes
    if free > 0:
        with filler.open("wb") as file, suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, free)
    return filler


def test_wherever_the_disk_fills_up_the_checkpoints_of_before_are_untouched(disk: Path) -> None:
    checkpoints = disk / "checkpoints"
    save(checkpoints, 10, keep=1)
    seen = set()
    for num_pages in range(12):
        found = newest_good(checkpoints, report=pytest.fail)
        assert found is not None
        before = contents(found.path)
        filler = fill(disk, but_bytes=num_pages * PAGE_BYTES)
        try:
            save(checkpoints, found.step + 10, keep=1)
            seen.add("saved")
        except SaveError as error:
            seen.add("refused")
            assert "No space left" in str(error) and "untouched" in str(error)
            assert contents(step_dir(checkpoints, found.step)) == before
            still = newest_good(checkpoints, report=pytest.fail)
            assert still is not None and still.step == found.step
        filler.unlink(missing_ok=True)
    assert seen == {"refused", "saved"}
    save(checkpoints, 1000, keep=1)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["latest", "step-00001000"]


def test_without_room_for_a_lease_or_a_copy_of_the_records_nothing_is_changed(disk: Path) -> None:
    first = take(disk / "leases")
    MetricsFile(disk / "metrics.jsonl", lease=first).write({"step": 1})
    filler = fill(disk, but_bytes=0)
    with pytest.raises(OSError, match="No space left"):
        take(disk / "leases")
    assert first.is_current() and not list((disk / "leases").glob(".draft-*"))
    with pytest.raises(OSError, match="No space left"):
        MetricsFile(disk / "metrics.jsonl", lease=first)
    assert [record["step"] for record in read_records(disk / "metrics.jsonl")] == [1]
    filler.unlink()
    assert take(disk / "leases").generation == 2
