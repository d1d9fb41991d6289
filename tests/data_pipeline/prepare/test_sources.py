"""Every kind of file is read whole, in exact blocks; a broken one is named, never cut short in silence."""

import bz2
import gzip
import lzma
import os
from functools import partial

import pytest
import zstandard

from data_pipeline.errors import DataError
from data_pipeline.prepare.report import Report
from data_pipeline.prepare.sources import BLOCK_BYTES, SourceFile, find_files, text_blocks

TEXT = b"".join(b"%d %d\n" % (number, number * number) for number in range(130_000))  # more than two blocks
PACK = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "xz": partial(lzma.compress, preset=0),
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


def file_of(tmp_path, content: bytes, name: str = "text") -> SourceFile:
    path = tmp_path / name
    path.write_bytes(content)
    return SourceFile(str(path), name)


@pytest.mark.parametrize("kind", PACK)
def test_content_is_told_apart_by_its_first_bytes_and_read_in_exact_blocks(tmp_path, kind):
    blocks = list(text_blocks(file_of(tmp_path, PACK[kind](TEXT), name="no-extension")))
    assert b"".join(blocks) == TEXT
    assert [len(block) for block in blocks[:-1]] == [BLOCK_BYTES] * (len(TEXT) // BLOCK_BYTES)


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "zst"])
def test_several_members_in_a_row_are_all_read(tmp_path, kind):
    twice = PACK[kind](b"first ") + PACK[kind](b"second")
    assert b"".join(text_blocks(file_of(tmp_path, twice))) == b"first second"


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2", "zst"])
@pytest.mark.parametrize("kept", [0.3, 0.9, -1])
def test_a_cut_off_archive_is_named_with_the_position(tmp_path, kind, kept):
    packed = PACK[kind](TEXT)
    cut = packed[: int(len(packed) * kept)] if kept > 0 else packed[:-1]
    with pytest.raises(DataError, match=r"text: cannot be read after byte \d+ of its text"):
        list(text_blocks(file_of(tmp_path, cut)))


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2"])
def test_a_damaged_archive_is_named(tmp_path, kind):
    packed = bytearray(PACK[kind](TEXT))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(DataError, match="text: cannot be read"):
        list(text_blocks(file_of(tmp_path, bytes(packed))))


def test_folders_are_read_in_order_of_name_without_hidden_files(tmp_path):
    for name in ("b.txt", "a/z.txt", "a/b.txt", ".hidden", ".git/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [file.name for file in find_files([str(tmp_path)])] == ["a/b.txt", "a/z.txt", "b.txt"]


def test_globs_are_sorted_and_inputs_keep_the_order_given(tmp_path):
    for name in ("2.txt", "1.txt", "0.log"):
        (tmp_path / name).write_text(name)
    found = find_files([str(tmp_path / "*.txt"), str(tmp_path / "0.log")])
    assert [file.name for file in found] == ["1.txt", "2.txt", "0.log"]


def test_all_inputs_that_name_nothing_are_reported_together(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        find_files([str(tmp_path / "absent"), str(tmp_path / "empty"), str(tmp_path / "*.nothing")])
    assert len(error.value.problems) == 3


def read_names(*given, report=None):
    return [file.name for file in find_files([str(path) for path in given], report=report)]


def test_linked_folders_and_files_are_followed_once_and_what_leads_nowhere_is_counted(tmp_path):
    (tmp_path / "corpus/real").mkdir(parents=True)
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "corpus/real/a.txt").write_text("a")
    (tmp_path / "elsewhere/deep/b.txt").write_text("b")
    (tmp_path / "elsewhere/.hidden").write_text("x")
    (tmp_path / "single.txt").write_text("s")
    links = {
        "corpus/away": tmp_path / "elsewhere",
        "corpus/again": tmp_path / "elsewhere/deep",
        "corpus/real/loop": tmp_path / "corpus",
        "elsewhere/up": tmp_path,
        "corpus/gone": tmp_path / "absent",
        "corpus/self": tmp_path / "corpus/self",
        "corpus/one.txt": tmp_path / "single.txt",
        "corpus/two.txt": tmp_path / "corpus/real/a.txt",
    }
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    os.link(tmp_path / "corpus/real/a.txt", tmp_path / "corpus/hard.txt")
    os.mkfifo(tmp_path / "corpus/pipe")
    report = Report()
    names = read_names(tmp_path / "corpus", report=report)
    assert names == ["again/b.txt", "hard.txt", "one.txt"], "each file once; what is no link by its own name"
    assert report.counts == {
        "files reached twice": 3,  # real/a.txt, two.txt, up/single.txt
        "folders reached twice": 4,  # loop, deep, corpus, elsewhere
        "links to nothing": 2,
        "neither files nor folders": 1,
    }


def test_a_file_given_twice_is_read_once_and_said(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.txt").write_text("1")
    (tmp_path / "a/2.txt").write_text("2")
    report = Report()
    assert read_names(tmp_path / "a/2.txt", tmp_path / "a", tmp_path / "a/**", report=report) == ["2.txt", "1.txt"]
    assert report.counts["files reached twice"] >= 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_below_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(DataError, match="locked: the folder cannot be read"):
        find_files([str(tmp_path)])


@pytest.mark.parametrize("how", ["-", "fifo"])
def test_streams_are_refused_with_the_way_that_works(tmp_path, how):
    if how == "fifo":
        os.mkfifo(tmp_path / "fifo")
        how = str(tmp_path / "fifo")
    with pytest.raises(DataError, match=r"inputs are read more than once; .*--input 'pipe:COMMAND'"):
        find_files([how])


def test_names_that_are_no_utf_8_or_no_line_are_read_and_can_be_shown(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9\n\x1b.txt"
    with open(raw, "wb") as file:
        file.write(b"text")
    for given in (os.fsdecode(raw), str(tmp_path)):
        (found,) = find_files([given])
        assert b"".join(text_blocks(found)) == b"text" and found.stored_bytes == 4
        assert (found.name + found.path).encode() and found.name == r"caf\udce9\n\x1b.txt"
