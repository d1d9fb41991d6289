"""Whatever gzip, bzip2, xz and zstd give of a file is read, or an error names the place: never less in silence."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
import tracemalloc
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.prepare.compressed import BLOCK_BYTES, DamageError, text_of, unpacked
from data_pipeline.prepare.file_kinds import other_kind, packing_of
from data_pipeline.prepare.sources import SourceFile, text_blocks
from tests.data_pipeline.making import FUZZ

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE, preset=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
TOOL = {
    "gzip": ["gzip", "-dc"],
    "bzip2": ["bzip2", "-dc"],
    "xz": ["xz", "-dc"],
    "lzma": ["xz", "--format=lzma", "-dc"],
    "zstd": ["zstd", "-dcq"],
}
SKIPPABLE = struct.pack("<II", 0x184D2A53, 4) + b"\x01\x02\x03\x04"
BETWEEN = {"gzip": b"\0" * 7, "bzip2": bz2.compress(b""), "xz": b"\0" * 8, "lzma": b"", "zstd": SKIPPABLE}
"""What may stand between two streams and holds no text; lzma has a single stream."""

PARTS = st.lists(st.binary(max_size=40) | st.binary(min_size=1, max_size=6).map(lambda part: part * 3000), min_size=1)
SEARCH = (Phase.explicit, Phase.generate)  # a failing file is small enough as it is
DAMAGE = st.sampled_from(["none", "flip", "cut", "append", "zero"])


def read(content: bytes) -> bytes:
    return b"".join(text_of(io.BytesIO(content), name="file"))


def read_by_tool(kind: str, content: bytes) -> tuple[bytes, bool]:
    """(its output, whether it had nothing to say about the file)."""
    done = subprocess.run(TOOL[kind], input=content, capture_output=True, check=False)
    return done.stdout, done.returncode == 0 and not done.stderr


def need_tool(kind: str) -> None:
    if shutil.which(TOOL[kind][0]) is None:
        pytest.skip(f"{TOOL[kind][0]} is not installed")


def damaged(content: bytes, how: str, place: int) -> bytes:
    at = place % len(content)
    changed = bytearray(content)
    if how == "flip":
        changed[at] ^= 1 + place % 255
    elif how == "zero":
        changed[at : at + 4] = b"\0" * 4
    elif how == "append":
        changed += content[: 1 + at % 30]
    return bytes(changed[:at]) if how == "cut" else bytes(changed)


def packed(kind: str, parts: list[bytes], *, paddings: list[bool]) -> bytes:
    """Streams one after another, some with what may stand between them, which may also come first in zstd and bzip2."""
    parts = parts[:1] if kind == "lzma" else parts
    paddings = [*paddings, *[False] * len(parts)]
    first = BETWEEN[kind] if kind in ("zstd", "bzip2") and paddings[-1] else b""
    streams = [PACK[kind](part) + BETWEEN[kind] * more for part, more in zip(parts, paddings, strict=False)]
    return first + b"".join(streams)


@pytest.mark.parametrize("kind", PACK)
@given(parts=PARTS, paddings=st.lists(st.booleans(), max_size=3), how=DAMAGE, place=st.integers(0, 1 << 16))
@settings(max_examples=60 * FUZZ, deadline=None, phases=SEARCH)
def test_never_less_than_the_systems_tool_gives_without_an_error(kind, parts, paddings, how, place):
    need_tool(kind)
    content = damaged(packed(kind, parts, paddings=paddings), how, place)
    if packing_of(content) is None:
        return  # its very first bytes are damaged: no tool takes it for such a file, and the name decides (below)
    output, is_content = read_by_tool(kind, content)
    try:
        text = b"".join(unpacked(io.BytesIO(content)))
    except ValueError as error:
        assert not is_content, f"{TOOL[kind][0]} has nothing to say against it, but: {error}"
        assert " byte" in str(error)
    else:
        assert text[: len(output)] == output and (text == output or not is_content)
        if how == "none":
            assert text == b"".join(parts[:1] if kind == "lzma" else parts)


@pytest.mark.parametrize("kind", PACK)
def test_every_stream_of_a_long_row_is_read_in_bounded_blocks(kind):
    """Of several megabytes a stream and across the edges of what is fed at once."""
    noise = random.Random(0).randbytes(300_000)
    parts = [noise, b"a" * 5_000_000, noise[:1], b"", noise[1000:]] if kind != "lzma" else [noise + b"a" * 5_000_000]
    blocks = [*unpacked(io.BytesIO(packed(kind, parts, paddings=[True, False, True])))]
    assert b"".join(blocks) == b"".join(parts)
    assert max(map(len, blocks)) <= BLOCK_BYTES and min(map(len, blocks)) > 0


@pytest.mark.parametrize("kind", PACK)
def test_memory_is_bounded_however_well_a_file_is_packed(kind):
    """64 MiB of zeros in a few kilobytes."""
    content = PACK[kind](bytes(1 << 26))
    stream = unpacked(io.BytesIO(content))
    tracemalloc.start()
    try:
        assert sum(map(len, stream)) == 1 << 26
        assert tracemalloc.get_traced_memory()[1] < 16 * BLOCK_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "behind", "offset"),
    [
        ("gzip", b"\0\0more", 2),
        ("bzip2", b"BZh9nothing", 0),
        ("xz", b"\0\0\0", 0),
        ("xz", b"\0\0\0\0\xfd7zXZ", 4),
        ("lzma", b"\0", 0),
        ("zstd", b"\x28\xb5", 0),
        ("zstd", SKIPPABLE[:-1], 8),
    ],
)
def test_what_may_not_stand_behind_a_stream_is_named_with_its_offset(kind, behind, offset):
    content = PACK[kind](b"text")
    with pytest.raises(DamageError, match=f"at byte {len(content) + offset} of the stored file"):
        read(content + behind)


def test_errors_say_where_in_the_text_and_where_in_the_file(tmp_path):
    path = tmp_path / "a.xz"
    whole = lzma.compress(random.Random(0).randbytes(BLOCK_BYTES + 10), preset=0)
    path.write_bytes(whole + b"\0\0\0\0" + b"no xz at all")
    said = rf"a\.xz: cannot be read after byte {BLOCK_BYTES} of its text: at byte {len(whole) + 4} of the stored file"
    with pytest.raises(DataError, match=said):
        list(text_blocks(SourceFile(str(path), "a.xz")))


def test_frames_of_pzstd_are_read(tmp_path):
    if shutil.which("pzstd") is None:
        pytest.skip("pzstd is not installed")
    path = tmp_path / "text"
    path.write_bytes(random.Random(0).randbytes(3_000_000))
    subprocess.run(["pzstd", "-q", "-p", "2", "-1", path, "-o", tmp_path / "text.zst"], check=True)
    assert (tmp_path / "text.zst").read_bytes()[:1] == b"\x50", "begins with a frame without text"
    assert b"".join(text_blocks(SourceFile(str(tmp_path / "text.zst"), "text"))) == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"7z\xbc\xaf\x27\x1c\0\4", "7z archive"),
        (b"Rar!\x1a\x07\x01\0", "rar archive"),
        (b"\x04\x22\x4d\x18\x64@", "lz4 file"),
        (b"LZIP\x01\x0c", "lzip file"),
        (b"\x1f\x9d\x90abc", r"compress \(.Z\) file"),
        (b"\xff\x06\0\0sNaPpY", "framed snappy file"),
        (gzip.compress(gzip.compress(b"text")), "compressed again"),
        (gzip.compress(b"PK\x03\x04"), "zip archive"),
    ],
    ids=["7z", "rar", "lz4", "lzip", "compress", "snappy", "gzip-in-gzip", "zip-in-gzip"],  # gzip holds the time
)
def test_what_is_not_read_is_refused_by_name_and_never_taken_for_text(content, said):
    with pytest.raises(ValueError, match=said):
        read(content)


@pytest.mark.parametrize("kind", ["gz", "xz", "zst", "bz2"])
def test_a_file_damaged_at_its_very_start_is_no_text(kind):
    content = bytearray(lzma.compress(random.Random(0).randbytes(2000)))
    content[0] ^= 1
    with pytest.raises(ValueError, match=f"named .{kind} but does not begin as such"):
        list(text_of(io.BytesIO(content), name=f"a.{kind}"))
    assert b"".join(text_of(io.BytesIO(b"plain \xc3\xa4"), name=f"a.{kind}")) == b"plain \xc3\xa4"


@given(st.binary(max_size=600) | st.text(max_size=600).map(str.encode))
@settings(max_examples=50, deadline=None, phases=SEARCH)
def test_what_is_neither_packed_nor_an_archive_is_passed_on_as_it_is(content):
    assert packing_of(content) or other_kind(content) or read(content) == content
