"""Every kind of file is read whole, in exact blocks; a broken one is named, never cut short in silence."""

import bz2
import gzip
import lzma
from functools import partial

import pytest
import zstandard

from data_pipeline.errors import DataError
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
