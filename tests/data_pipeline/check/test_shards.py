"""Each shard of a run is read once; what is missing, of another size or has changed is found before training."""

import os
import time
from pathlib import Path

import pytest

from data_pipeline.check import remembered, shards
from data_pipeline.check.remembered import FILE_NAME
from data_pipeline.check.shards import ShardCheck
from data_pipeline.read import shard_cache
from tests.data_pipeline.making import folder_content, prepared

TEXT = b"some text to keep safe\n" * 2000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(shard_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    prepared(tmp_path / "d", TEXT, splits="valid=0.1,test=0.1", shard_tokens=10_000)
    return tmp_path / "d"


@pytest.fixture
def read_files(monkeypatch):
    """Names of the shards that are read from here on."""
    names, really_read = [], shards.read_shard

    def read(path: Path, **options):
        names.append(f"{path.parent.name}/{path.name}")
        return really_read(path, **options)

    monkeypatch.setattr(shards, "read_shard", read)
    return names


def checked(*folders, **options):
    """Problems before training, and those found beside it."""
    check = ShardCheck(folders, **options)
    check.look()
    before = check.problems
    check.start()
    assert check.finish(seconds=60) and check.num_left == 0
    return before, check.problems[len(before) :]


def overwrite(shard: Path, *, keep_time: bool = False) -> None:
    found = shard.stat()
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 3] ^= 1
    shard.write_bytes(damaged)
    if keep_time:
        os.utime(shard, ns=(found.st_atime_ns, found.st_mtime_ns))


def test_every_shard_that_training_reads_is_read_once_and_no_more_at_the_next_start(folder, read_files):
    assert checked(folder) == ((), ())
    names = {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*.tar")}
    assert sorted(read_files) == sorted(name for name in names if not name.startswith("test/"))
    assert len((folder / FILE_NAME).read_text().splitlines()) == len(read_files) >= 5
    read_files.clear()
    assert checked(folder, folder) == ((), ()) and read_files == []


@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_shard_overwritten_under_its_index_is_found_beside_training_and_then_at_once(folder, split, read_files):
    shard = folder / split / "shard-000000.tar"
    overwrite(shard)
    before, beside = checked(folder)
    assert before == () and len(beside) == 1 and str(shard) in beside[0] and "\n" not in beside[0]
    read_files.clear()
    before, beside = checked(folder)  # a job that is started again is not let in again
    assert len(before) == 1 and beside == () and read_files == []


@pytest.mark.parametrize("keep_time", [False, True])
def test_what_has_changed_since_it_was_read_is_read_before_training(folder, read_files, keep_time):
    assert checked(folder) == ((), ())
    read_files.clear()
    shard = folder / "train/shard-000001.tar"
    overwrite(shard, keep_time=keep_time)
    before, beside = checked(folder)
    assert len(before) == 1 and str(shard) in before[0] and beside == () and read_files == ["train/shard-000001.tar"]


def test_what_was_only_touched_is_no_problem(folder, read_files):
    checked(folder)
    read_files.clear()
    (folder / "train/shard-000001.tar").touch()
    assert checked(folder) == ((), ()) and read_files == ["train/shard-000001.tar"]


def test_of_more_that_has_changed_than_can_be_waited_for_the_rest_comes_first_beside_training(
    folder, read_files, monkeypatch
):
    checked(folder)
    for shard in folder.glob("train/*.tar"):
        overwrite(shard)
    size = (folder / "train/shard-000000.tar").stat().st_size
    monkeypatch.setattr(shards, "SUSPECT_BYTES", 2 * size)
    before, beside = checked(folder)
    assert len(before) == 2 and len(beside) == len(list(folder.glob("train/*.tar"))) - 2


def test_missing_and_short_shards_are_found_at_once_all_of_them(folder, read_files):
    (folder / "train/shard-000000.tar").unlink()
    short = folder / "train/shard-000001.tar"
    short.write_bytes(short.read_bytes()[:-512])
    (folder / "test/shard-000000.tar").unlink()  # which training does not read
    check = ShardCheck([folder])
    check.look()
    assert len(check.problems) == 2 and read_files == []
    assert "cannot be read" in check.problems[0] and f"{short}: " in check.problems[1]


def test_nodes_share_the_work_where_they_share_the_files(folder, read_files):
    nodes = [ShardCheck([folder]) for _ in range(3)]
    for node in nodes:
        node.look()
    for number, node in enumerate(nodes):
        node.start(share=number, num_shares=3)
        assert node.finish(seconds=60)
    names = [
        f"{path.parent.name}/{path.name}" for split in ("train", "valid") for path in folder.glob(f"{split}/*.tar")
    ]
    assert sorted(read_files) == sorted(names)  # each by one of them
    overwrite(folder / "train/shard-000000.tar")
    nodes = [ShardCheck([folder]) for _ in range(2)]
    for node in nodes:
        node.look()
    assert [len(node.problems) for node in nodes] == [1, 1]


@pytest.mark.parametrize("obstacle", ["link", "folder", "pipe"])
def test_where_the_folder_cannot_be_written_the_cache_remembers(folder, read_files, obstacle, tmp_path):
    """Root may write anywhere, so that something else stands where the file should be."""
    outside = tmp_path / "outside"
    outside.write_text("precious\n")
    place = folder / FILE_NAME
    {"link": lambda: place.symlink_to(outside), "folder": place.mkdir, "pipe": lambda: os.mkfifo(place)}[obstacle]()
    assert checked(folder) == ((), ()) and outside.read_text() == "precious\n"
    assert len(list((tmp_path / "cache").glob("verified-*.jsonl"))) == 1
    read_files.clear()
    assert checked(folder) == ((), ()) and read_files == []


def test_where_nothing_can_be_remembered_every_start_reads(folder, read_files, monkeypatch):
    monkeypatch.setattr(remembered, "cache_folder", lambda: Path("~nobody_of_this_name/x").expanduser())
    (folder / FILE_NAME).mkdir()
    assert checked(folder) == checked(folder) == ((), ()) and len(read_files) % 2 == 0 < len(read_files)


def test_a_file_of_nonsense_is_as_good_as_none(folder, read_files):
    checked(folder)
    good = (folder / FILE_NAME).read_bytes()
    nonsense = [b"\xff\xfe", b"[]", b"null", b'{"name": 3}', b"[" * 5000, good.splitlines()[0][:-3], b"1e999"]
    nonsense.append(good.splitlines()[0].replace(b'"size": ', b'"size": "').replace(b', "mod', b'", "mod'))
    (folder / FILE_NAME).write_bytes(b"\n".join(nonsense) + b"\n" + good)
    read_files.clear()
    assert checked(folder) == ((), ()) and read_files == []
    (folder / FILE_NAME).write_bytes(b"\n".join(nonsense))
    assert checked(folder) == ((), ()) and len(read_files) == len(good.splitlines())


def test_nothing_but_the_file_is_written(folder):
    content = folder_content(folder)
    checked(folder)
    after = folder_content(folder)
    assert after.pop(FILE_NAME) and after == content


def test_reading_beside_training_is_bounded_and_ends_when_asked(folder, monkeypatch):
    monkeypatch.setattr(shards, "READ_BYTES", 4096)
    monkeypatch.setattr(shards, "BYTES_PER_SECOND", 4096 * 2)  # the first shard alone takes its time
    check = ShardCheck([folder])
    check.look()
    check.start()
    time.sleep(0.3)
    assert check.num_left >= 5
    began = time.monotonic()
    check.close()
    assert time.monotonic() - began < 5 and check.num_left >= 5 and check.problems == ()
    in_haste = ShardCheck([folder])
    in_haste.look()
    in_haste.start()
    assert in_haste.finish(seconds=60) and in_haste.num_left == 0


def test_remote_datasets_are_left_to_the_cache():
    check = ShardCheck(["https://example.org/data"])
    check.look()
    assert check.finish(seconds=0) and check.problems == ()
