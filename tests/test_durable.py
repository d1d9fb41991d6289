"""Files are what their records say, and an error while writing surfaces as itself."""

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierlm.checkpoint.commit import save_checkpoint
from hierlm.checkpoint.find import list_checkpoints, verify
from hierlm.checkpoint.team import ALONE
from hierlm.durable import FileWriter, damage, hash_file, rename, write_synced
from hierlm.lease import Fence
from launcher.prepare_run import write_whole
from tests.checkpoint.making import facts, write_two_files


@given(st.lists(st.one_of(st.binary(max_size=50), st.just(b"x" * (3 << 20))), max_size=4))
def test_the_record_taken_while_writing_is_that_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, blocks: list[bytes]
) -> None:
    root = tmp_path_factory.mktemp("files")
    files = FileWriter(root)
    with files.open(root / "deep" / "file") as file:
        for block in blocks:
            file.write(memoryview(block))
    assert (root / "deep" / "file").read_bytes() == b"".join(blocks)
    assert files.records == {"deep/file": hash_file(root / "deep" / "file")}
    assert files.records["deep/file"].sha256 == hashlib.sha256(b"".join(blocks)).hexdigest()


def test_torch_saves_through_it_what_it_would_save_itself(tmp_path: Path) -> None:
    content = {"a": torch.arange(1_000_000.0), "b": [1, "two"]}
    files = FileWriter(tmp_path)
    with files.open(tmp_path / "x.pt") as file:
        torch.save(content, file)
    read = torch.load(tmp_path / "x.pt", weights_only=True)
    assert torch.equal(read["a"], content["a"]) and read["b"] == content["b"]
    assert damage(tmp_path, files.records) == []


FULL_DISK = """
import resource, sys, torch
from pathlib import Path
from hierlm.durable import FileWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
files = FileWriter(Path(sys.argv[1]))
try:
    with files.open(Path(sys.argv[1]) / "x.pt") as file:
        torch.save({"a": torch.zeros(4 << 20), "b": torch.zeros(4 << 20)}, file)
except OSError as error:
    print("errno", error.errno, files.records)
"""


def test_a_write_that_fails_is_an_oserror_not_a_crash_of_torch(tmp_path: Path) -> None:
    """A limit on the size of a file fails the write itself, as a full disk does."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == f"errno {errno.EFBIG} {{}}", done.stderr


@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda path: path.unlink(), "x: missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "x: 4 bytes, 5 expected"),
        (lambda path: path.write_bytes(b"hellO"), "x: content differs from its checksum"),
    ],
)
def test_damage_names_the_file_and_what_is_wrong(harm, line: str, tmp_path: Path) -> None:
    files = FileWriter(tmp_path)
    for name in ("x", "y"):
        with files.open(tmp_path / name) as file:
            file.write(b"hello")
    harm(tmp_path / "x")
    assert damage(tmp_path, files.records) == [line]


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    write_synced(tmp_path / "latest", "old")
    write_synced(tmp_path / "latest", "new")
    assert (tmp_path / "latest").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["latest"]


@pytest.fixture
def lost_answers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every rename is done, and answered as the repeat of it that a network file system sends; the names renamed."""
    done, really_rename = list[str](), os.rename

    def rename(source: Path, target: Path) -> None:
        really_rename(source, target)
        done.append(Path(source).name)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))

    monkeypatch.setattr(os, "rename", rename)
    return done


@pytest.mark.parametrize("write", [write_synced, Fence().write, write_whole])
def test_a_rename_that_was_done_counts_as_done(
    write: Callable[[Path, str], None], lost_answers: list[str], tmp_path: Path
) -> None:
    for text in ("old", "new"):
        write(tmp_path / "file", text)
    assert (tmp_path / "file").read_text() == "new" and len(lost_answers) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_checkpoint_whose_rename_was_done_is_saved(lost_answers: list[str], tmp_path: Path) -> None:
    for step in (5, 6, 7, 7):  # one goes, one makes room for another save of its step
        save_checkpoint(tmp_path, facts=facts(step), write=write_two_files(step), team=ALONE, keep=1)
    assert [listed.step for listed in list_checkpoints(tmp_path) if not verify(listed)] == [7]
    assert len(lost_answers) > 4


def test_a_rename_that_was_not_done_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "new").write_text("taken away")
    (tmp_path / "file").write_text("another's")
    monkeypatch.setattr(os, "rename", lambda source, target: os.stat(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        rename(tmp_path / "new", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "another's"
